"""Power loss: what a command's writes may have left on the disk, and what it makes of that.

    recording.py   what a scenario does to a folder, as a list of events
    disk.py        the states of the folder that a power loss may leave, by these events
    explore.py     the program's own recovery on each of them
    scenarios/     what is written, and what must be found afterwards

Not here: killed processes (`tools.faults.kills`): a kill leaves what the kernel has buffered.
"""
