"""Run by `test_old_transformers.py` under another transformers release; imports nothing of vqr1.

Follows the code path of the published README: batch without thinking, one image and batch with
thinking. Arguments: checkpoint folder, file of inputs and expected logits, image files. Prints one
JSON object.
"""

import json
import re
import sys
from pathlib import Path

import torch
import transformers
from qwen_vl_utils import process_vision_info
from safetensors.torch import load_file
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

QUESTION = (
    "You are doing the image quality assessment task. Here is the question: "
    "What is your overall rating on the quality of this picture? The rating should be a float "
    "between 1 and 5, rounded to two decimal places, with 1 representing very poor quality and 5 "
    "representing excellent quality."
)
THINKING = (
    " First output the thinking process in <think> </think> tags and then output the final answer "
    "with only one score in <answer> </answer> tags."
)
NON_THINKING = (
    " Please only output the final answer with only one score in <answer> </answer> tags."
)


def answers(model, processor, paths, prompt):
    messages = [
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": path}, {"type": "text", "text": prompt}],
            }
        ]
        for path in paths
    ]
    text = [
        processor.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True, add_vision_id=True
        )
        for message in messages
    ]
    image_inputs, video_inputs = process_vision_info(messages)
    inputs = processor(
        text=text, images=image_inputs, videos=video_inputs, padding=True, return_tensors="pt"
    )
    generated = model.generate(
        **inputs, use_cache=True, max_new_tokens=64, do_sample=True, top_k=50, top_p=1
    )
    trimmed = [
        output[len(prompt_ids) :]
        for prompt_ids, output in zip(inputs.input_ids, generated, strict=True)
    ]
    return processor.batch_decode(
        trimmed, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def run_card(folder, path):
    """Execute the Python block of the model card, and give what it printed."""
    block = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    code = block.group(1).replace('FOLDER = "."', f"FOLDER = {str(folder)!r}")
    printed = []
    exec(code.replace("photo.png", path), {"print": printed.append})
    return printed[0]


def main():
    folder, expected, *paths = sys.argv[1:]
    torch.manual_seed(1)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, torch_dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    inputs = load_file(expected)
    logits = inputs.pop("logits")
    if transformers.__version__.startswith("4."):
        inputs.pop("mm_token_type_ids")
    with torch.no_grad():
        difference = (model(**inputs).logits[:, -12:] - logits).abs().max()
    result = {
        "version": transformers.__version__,
        "difference": float(difference),
        "single": answers(model, processor, paths[:1], QUESTION + THINKING),
        "batch": answers(model, processor, paths, QUESTION + THINKING),
        "batch_non_thinking": answers(model, processor, paths, QUESTION + NON_THINKING),
        "card": run_card(Path(folder), paths[0]),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
