"""A harness that hurts real trainings: kills, full disks, damaged files, locked databases.

`runs.py` starts the demo training in processes of its own and reads what it left; `child.py` is
what runs in them; `kills.py`, `storage.py` and `surroundings.py` hold the faults. `test_faults.py`
tries a few of each, `scripts/fault_report.py` all of them.
"""
