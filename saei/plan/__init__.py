"""What a run will take before it is started: bytes of each phase on each device, hours, the sbatch command.

Everything here is reckoned from shapes, settings and stated assumptions; nothing is measured, and it says so.
"""
