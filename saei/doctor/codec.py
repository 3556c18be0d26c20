"""Are our pixel values those of the stock image processor, and is the resized image left at its size by it?"""

from saei.doctor.finding import Finding, NotHere, failed, passed
from saei.doctor.patient import Patient
from saei.doctor.stock import stock_images

LARGEST = 1e-5


def check_codec(patient: Patient) -> Finding:
    policy, worst, images = patient.policy, 0.0, 0
    for prompt in patient.prompts:
        for image in prompt.images:
            stock = stock_images(policy, (image,))["pixel_values"].cpu().float()
            ours = policy.codec.patchify(image).detach().cpu().float()
            if ours.numel() != stock.numel():
                return failed(
                    f"{prompt.problem_id}: {ours.numel():,} values of ours, {stock.numel():,} of the stock processor",
                    "the processor would resize again: its limits and data.min_pixels, data.max_pixels must agree",
                )
            worst = max(worst, float((ours.reshape(-1) - stock.reshape(-1)).abs().max()))
            images += 1
    if not images:
        raise NotHere("no problem that was looked at has an image")
    if not worst <= LARGEST:  # also where it is NaN
        return failed(
            f"largest difference {worst:.2g} (at most {LARGEST:g})",
            "the folder's image processor is another one than its config.json says; take all files of one model",
        )
    return passed(f"{images} images, largest difference {worst:.1e} (at most {LARGEST:g})")
