"""Train a policy in TRL with the score as its reward; docs/reward_in_trl.md explains it."""

import re

import torch
from datasets import Dataset
from PIL import Image, ImageEnhance
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
from trl import GRPOConfig, GRPOTrainer

import vqr1
from vqr1.config import read_choice
from vqr1.policy.packaged import tiny_policy_folder

metric = vqr1.create_metric("tiny", prompt="non_thinking")  # "visualquality-r1", device="cuda"


def quality(completions, images, **_):
    """Quality of each image after its answer's change; None where there is no answer."""
    factors = [re.search(r"\d+(\.\d+)?", completion[0]["content"]) for completion in completions]
    changed = [
        ImageEnhance.Brightness(image).enhance(min(float(factor.group()), 4.0))
        for factor, (image,) in zip(factors, images, strict=True)
        if factor
    ]
    scores = iter(metric(changed).tolist() if changed else [])
    return [next(scores) if factor else None for factor in factors]


folder = tiny_policy_folder()  # the policy to train
# The tiny policy knows this one question, whose answer is a number; ask yours for a factor.
text = read_choice("prompt", "thinking", "prompt")["text"]
question = [{"role": "user", "content": text}]
images = [[Image.new("RGB", (112, 112), (shade, 80, 40))] for shade in (40, 90, 140, 190)]
trainer = GRPOTrainer(
    model=Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32),
    processing_class=AutoProcessor.from_pretrained(folder),
    reward_funcs=quality,
    args=GRPOConfig(
        output_dir="out",
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=48,
        max_steps=2,
        logging_steps=1,
        use_cpu=True,  # leave away on a GPU
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
    ),
    train_dataset=Dataset.from_dict({"prompt": [question] * 4, "images": images}),
)
trainer.train()
