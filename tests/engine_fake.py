"""An engine worker that is our own sampler in another process. Option `shift` is added to every log-prob it tells."""

import base64
import io

import numpy as np
import torch
from PIL import Image

from saei.config import DataConfig, ModelConfig
from saei.engines.worker import serve
from saei.policy import load_policy
from saei.sampler import sample as sample_here
from saei.types import Prompt, SampleRequest


class Fake:
    def start(self, message, progress):
        torch.set_num_threads(1)
        self.shift, self.dtype = message["options"].get("shift", 0.0), message["dtype"]
        self.load(message["model"])
        return {"kind": "ready", "engine": "fake"}

    def sync(self, message, progress):
        self.load(message["model"])
        return {"kind": "synced"}

    def load(self, folder):
        self.policy = load_policy(ModelConfig(path=folder, dtype=self.dtype, device="cpu"), DataConfig())

    def prompt(self, number, token_ids, images):
        counts = iter(images)
        expanded = []
        for token in token_ids:
            image = token == self.policy.image_token_id
            expanded += [token] * (self.policy.codec.tokens(next(counts)) if image else 1)
        return Prompt(problem_id=str(number), token_ids=tuple(expanded), images=tuple(images))

    def sample(self, message, progress):
        pictures = {name: picture(png) for name, png in message["images"].items()}
        requests, seeds = [], []
        for number, request in enumerate(message["requests"]):
            images = tuple(pictures[name] for name in request["images"])
            prompt = self.prompt(number, request["prompt"], images)
            requests.append(SampleRequest(prompt=prompt, images=images, indices=tuple(range(len(request["seeds"])))))
            seeds.append(request["seeds"])
        greedy = seeds[0][0] is None
        sampled = sample_here(
            self.policy,
            requests,
            temperature=message["temperature"],
            top_p=message["top_p"],
            max_new_tokens=message["max_new_tokens"],
            batch_rows=64,
            noise=None if greedy else lambda name, i, count: np.random.default_rng(seeds[int(name)][i]).random(count),
        )
        results = [
            {
                "prompt": list(request.prompt.token_ids),
                "completions": [
                    {
                        "tokens": list(one.token_ids),
                        "logprobs": [value + self.shift for value in one.sampler_logprobs.tolist()],
                        "finish": "stop" if one.finished else "length",
                    }
                    for one in group
                ],
            }
            for request, group in zip(requests, sampled, strict=True)
        ]
        return {"kind": "completions", "results": results}

    def pixels(self, message, progress):
        images = [picture(png) for png in message["images"]]
        values = torch.cat([self.policy.codec.patchify(image) for image in images]).float().contiguous()
        return {
            "kind": "pixels",
            "prompt": list(self.prompt(0, message["prompt"], images).token_ids),
            "shape": list(values.shape),
            "values": base64.b64encode(values.numpy().tobytes()).decode(),
        }


def picture(png):
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


if __name__ == "__main__":
    fake = Fake()
    serve({"start": fake.start, "sync": fake.sync, "sample": fake.sample, "pixels": fake.pixels})
