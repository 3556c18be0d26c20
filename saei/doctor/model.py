"""Does the model load, whole, and is it of a family that packing knows?"""

from saei.doctor.finding import Finding, failed, passed
from saei.doctor.patient import Patient
from saei.policy import load_policy


def check_model(patient: Patient) -> Finding:
    try:
        policy = patient.__dict__["policy"] = load_policy(patient.config.model, patient.config.data)
    except (ValueError, OSError) as error:
        return failed(str(error), "name a folder in Hugging Face format, or download it first (HF_HUB_OFFLINE unset)")
    model = policy.model
    numbers = sum(parameter.numel() for parameter in model.parameters())
    own = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    kind = str(model.dtype).removeprefix("torch.")
    return passed(f"{model.config.model_type}, {numbers:,} parameters, {own:,} trained, {kind} on {policy.device}")
