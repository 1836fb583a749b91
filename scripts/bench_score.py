"""Times scoring images here beside the published batch loop, on the same files and weights.

The published loop is the model card's: messages, chat template, `process_vision_info`, processor
with padding, `model.generate` with do_sample, and decoding of the answers. Ours is `Scorer` in the
mode `expected`, as `python score.py` runs it, and with one sampled answer, as the loop has it:
`expected` reads every number that an answer may be, the loop writes one. Both read the files
themselves, 32 at a time. Every side runs in processes of its own, one after the other and in turns,
so that peak memory is its own. Beside our thinking mode stands `mode=levels`, one pass over words
of levels, on the same files, and a student (`--student FOLDER`) where one is given.

    python scripts/bench_score.py --json bench.json             # both models, both prompts
    python scripts/bench_score.py --models 39m --repeats 3

Models: `tiny`, the packaged policy (112x112, its answers end by themselves), and `39m`, random
weights at 448x336: there the loop writes exactly C tokens an answer, 12 without reasoning (the
tokens of `<answer>3.42</answer>` and of the end) and 64 with, and so does our reasoning.

What came out: docs/scoring.md. Not here: what the scores state.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.setup import EndlessTokenizer, Size, loaded_images

from tools.tiny_policy.factory import (
    TinySize,
    build_tokenizer,
    random_tiny_model,
    save_policy_folder,
)
from vqr1.config import (
    AnyAnswer,
    EvalModeConfig,
    ModelConfig,
    PromptConfig,
    SamplingConfig,
    read_choice,
)
from vqr1.config import validate as checked
from vqr1.config.folder import answer_of_prompt
from vqr1.iqa.answers import FIVE_LEVELS, AnswerForm
from vqr1.outputs import own_json, target, write_json
from vqr1.policy.memory import peak_memory_mib
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.policy.training_prompt import trained_vision_id

SIDES = ("published", "ours", "sampled")
PROMPTS = ("non_thinking", "thinking")
LEVELS = "levels"
STUDENT = "student"
_MODES = {"ours": "expected", "sampled": "sampled", LEVELS: "levels", STUDENT: "expected"}
BATCH = 32
MOST_TOKENS = 256
EXACTLY = {"non_thinking": 12, "thinking": 64}
IMAGE = {"tiny": (160, 120), "39m": (448, 336)}
WIDE = TinySize(
    hidden=512, layers=8, heads=8, kv_heads=2, feed_forward=1408, vision_hidden=320,
    vision_depth=8, vision_heads=4, vision_feed_forward=1280, initial_std=0.02,
)  # fmt: skip


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(IMAGE), default=list(IMAGE))
    parser.add_argument("--prompts", nargs="+", choices=PROMPTS, default=list(PROMPTS))
    parser.add_argument("--images", type=int, default=32, help="images that are scored each time")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes, after one warm-up")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each side")
    parser.add_argument(
        "--json", type=target(own_json("bench_score")), help="file for every metric"
    )
    parser.add_argument(
        "--student", type=Path, help="export of a stage=distill run of the tiny model, timed too"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def write_model(name: str, folder: Path) -> Path:
    """The folder with weights and processor that both sides load."""
    if name == "tiny":
        return tiny_policy_folder()
    prompts = [read_choice("prompt", prompt, "prompt")["text"] for prompt in (*PROMPTS, LEVELS)]
    # Often enough for words of levels that begin with tokens of their own.
    levels = [f"The quality of the image is {word}." for word in FIVE_LEVELS] * 50
    tokenizer = build_tokenizer(
        [*prompts, *levels, "system user assistant You are a helpful assistant."], 512
    )
    save_policy_folder(random_tiny_model(tokenizer, WIDE), tokenizer, folder, WIDE)
    return folder


def model_config(name: str, folder: str) -> ModelConfig:
    """Image sizes of the model: the packaged policy's own, or the published ones."""
    choice = checked(ModelConfig, read_choice("model", "tiny", "model"))
    if name == "tiny":
        return replace(choice, path=folder)
    return replace(choice, path=folder, min_pixels=3136, max_pixels=1003520)


class PublishedLoop:
    """The batch loop of the published model card."""

    def __init__(self, config: ModelConfig, prompt: str, exactly: int | None) -> None:
        self._model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
            config.path, dtype=torch.float32
        )
        self._processor = transformers.AutoProcessor.from_pretrained(config.path)
        self._processor.tokenizer.padding_side = "left"
        self._config = config
        self._prompt = prompt
        self._vision_id = trained_vision_id(config) or False
        self._length = (
            {"max_new_tokens": MOST_TOKENS}
            if exactly is None
            else {"max_new_tokens": exactly, "min_new_tokens": exactly}
        )

    def __call__(self, paths: list[str]) -> list[str]:
        """Answers to all images."""
        return [
            answer
            for first in range(0, len(paths), BATCH)
            for answer in self._batch(paths[first : first + BATCH])
        ]

    def _batch(self, paths: list[str]) -> list[str]:
        from qwen_vl_utils import process_vision_info

        sizes = {"min_pixels": self._config.min_pixels, "max_pixels": self._config.max_pixels}
        messages = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": path, **sizes},
                        {"type": "text", "text": self._prompt},
                    ],
                }
            ]
            for path in paths
        ]
        text = [
            self._processor.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True, add_vision_id=self._vision_id
            )
            for message in messages
        ]
        images, videos = process_vision_info(messages)
        inputs = self._processor(
            text=text, images=images, videos=videos, padding=True, return_tensors="pt"
        )
        generated = self._model.generate(
            **inputs, use_cache=True, do_sample=True, top_k=50, top_p=1, **self._length
        )
        trimmed = [row[len(ids) :] for ids, row in zip(inputs.input_ids, generated, strict=True)]
        answers: list[str] = self._processor.batch_decode(
            trimmed, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return answers


class OwnScorer:
    """`python score.py` without its command line."""

    def __init__(
        self,
        config: ModelConfig,
        prompt: PromptConfig,
        form: AnswerForm,
        exactly: int | None,
        mode_name: str,
    ) -> None:
        from vqr1.inference.backends.local import LocalBackend
        from vqr1.inference.backends.student import StudentBackend
        from vqr1.inference.scorer import Scorer
        from vqr1.policy.loading import load_policy
        from vqr1.student.files import is_student

        mode = checked(
            EvalModeConfig,
            {
                **read_choice(
                    "mode", "sampled", "mode", model=read_choice("model", "tiny", "model")
                ),
                "name": mode_name,
                "samples": 1,
            },
        )
        sampling: SamplingConfig = replace(mode.sampling, max_new_tokens=exactly or MOST_TOKENS)
        backend: LocalBackend | StudentBackend
        if is_student(config):
            backend = StudentBackend(config)
        else:
            policy = load_policy(config)
            if exactly is not None:
                policy.processor.tokenizer = EndlessTokenizer(
                    policy.processor.tokenizer, policy.family.end_of_turn
                )
            backend = LocalBackend(policy, config)
        self._scorer = Scorer(
            backend,
            prompt,
            form,
            replace(mode, sampling=sampling),
            batch_size=BATCH,
        )

    def __call__(self, paths: list[str]) -> list[str]:
        """Answers to all images."""
        return [result.text or "" for result in self._scorer.score(paths)]


def work(options: argparse.Namespace) -> None:
    """Runs one side in this process and prints its metrics as the last line."""
    torch.set_num_threads(options.threads)
    task = json.loads(options.worker)
    config = model_config(task["model"], task["folder"])
    prompt = checked(PromptConfig, read_choice("prompt", task["prompt"], "prompt"))
    answer = read_choice("answer", answer_of_prompt(task["prompt"]) or "think_answer", "answer")
    form = checked(AnyAnswer, answer).form
    exactly = EXACTLY.get(task["prompt"]) if task["model"] == "39m" else None
    run: PublishedLoop | OwnScorer = (
        PublishedLoop(config, prompt.text, exactly)
        if task["side"] == "published"
        else OwnScorer(config, prompt, form, exactly, _MODES[task["side"]])
    )
    torch.manual_seed(0)
    seconds, busy = [], []
    for _ in range(options.repeats + 1):
        begun, spent = time.perf_counter(), time.process_time()
        answers = run(task["paths"])
        seconds.append(time.perf_counter() - begun)
        busy.append(time.process_time() - spent)
        assert len(answers) == len(task["paths"])
    peak = peak_memory_mib("cpu")
    print(json.dumps({"seconds": seconds[1:], "cpu": busy[1:], "peak_mib": peak}))


def measure(options: argparse.Namespace, task: dict[str, Any]) -> dict[str, Any]:
    """One side at one task, in a process of its own."""
    command = [sys.executable, __file__, "--worker", json.dumps(task)]
    command += ["--threads", str(options.threads), "--repeats", str(options.repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{task['side']}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    metrics: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    metrics["median"] = statistics.median(metrics["seconds"])
    metrics["median_cpu"] = statistics.median(metrics["cpu"])
    return metrics


def compare(options: argparse.Namespace, model: str, prompt: str, work: Path) -> dict[str, Any]:
    """Both sides at one model and prompt, and the ratios of their medians."""
    folder = write_model(model, work / model)
    width, height = IMAGE[model]
    paths = []
    for number, image in enumerate(
        loaded_images(Size(model, width, height, options.images, group=1, tokens=1))
    ):
        paths.append(str(work / f"{model}_{number:04d}.png"))
        image.save(paths[-1])
    task = {"model": model, "folder": str(folder), "prompt": prompt, "paths": paths}
    result: dict[str, Any] = {side: measure(options, {**task, "side": side}) for side in SIDES}
    published, ours, sampled = (result[side] for side in SIDES)
    result["times_faster"] = published["median"] / ours["median"]
    result["times_less_cpu"] = published["median_cpu"] / ours["median_cpu"]
    result["share_of_memory"] = ours["peak_mib"] / published["peak_mib"]
    result["sampled_times_faster"] = published["median"] / sampled["median"]
    if prompt == "thinking":
        result[LEVELS] = measure(options, {**task, "prompt": LEVELS, "side": LEVELS})
        result["levels_times_faster"] = ours["median"] / result[LEVELS]["median"]
    if prompt == "thinking" and model == "tiny" and options.student is not None:
        student = {**task, "folder": str(options.student), "side": STUDENT}
        result[STUDENT] = measure(options, student)
        result["student_times_faster"] = ours["median"] / result[STUDENT]["median"]
    return result


def show(name: str, result: dict[str, Any]) -> None:
    """Prints one line a side."""
    print(name)
    for side in (*SIDES, LEVELS, STUDENT):
        if side not in result:
            continue
        metrics = result[side]
        print(
            f"  {side:<10} median {metrics['median']:7.2f} s   processor "
            f"{metrics['median_cpu']:7.2f} s   peak {metrics['peak_mib']:6.0f} MiB"
        )
    print(
        f"  ours (expected) is {result['times_faster']:.1f} x faster "
        f"({result['times_less_cpu']:.1f} x less processor time), "
        f"with {result['share_of_memory']:.2f} of the memory",
        flush=True,
    )
    print(f"  one sampled answer is {result['sampled_times_faster']:.1f} x faster", flush=True)
    if LEVELS in result:
        print(
            f"  mode=levels is {result['levels_times_faster']:.1f} x faster than ours", flush=True
        )
    if STUDENT in result:
        print(
            f"  the student is {result['student_times_faster']:.1f} x faster than ours", flush=True
        )


def main(argv: list[str] | None = None) -> None:
    """Runs both sides and writes the metrics."""
    options = parse_arguments(argv)
    if options.worker:
        work(options)
        return
    report: dict[str, Any] = {
        "images": options.images,
        "batch": BATCH,
        "threads": options.threads,
        "machine": platform.processor() or platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "results": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            for prompt in options.prompts:
                name = f"{model}, {prompt}"
                report["results"][name] = compare(options, model, prompt, Path(folder))
                show(name, report["results"][name])
    if options.json is not None:
        write_json(options.json, report, "bench_score")


if __name__ == "__main__":
    main()
