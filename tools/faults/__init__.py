"""A harness that harms real trainings: kills, full disks, damaged files, locked databases.

`runs.py` starts the demo training in processes of its own and reads what it left; `child.py` is
what runs in them; `kills.py`, `storage.py` and `surroundings.py` hold the faults, `killed_sweep.py`
those of a sweep. `scripts/fault_report.py` and `scripts/sweep_faults.py` try them all, the tests a
few of each. Not in the wheel.
"""
