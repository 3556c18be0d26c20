"""Do the problems of every split load, and are the splits apart?"""

from saei.data import load_problems
from saei.doctor.finding import Finding, failed, passed
from saei.doctor.patient import Patient


def check_problems(patient: Patient) -> Finding:
    data = patient.config.data
    try:
        sizes = {
            split: len(load_problems(data, split))
            for split in (data.train_split, data.validation_split, data.test_split)
        }
    except (ValueError, OSError) as error:
        return failed(str(error), "mend data.path, its splits or its rows; python -m saei.data shows what is there")
    figure = ", ".join(f"{split} {size:,}" for split, size in sizes.items())
    wanted = patient.config.rollout.problems_per_step
    if sizes[data.train_split] < wanted:
        return failed(
            f"{figure}; a step takes {wanted:,}", f"--rollout.problems-per-step {sizes[data.train_split]} or fewer"
        )
    return passed(figure)
