"""The table of `test_bad_input.py`: what a user gets wrong, and what the one message names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One mistake.

    Attributes:
        command: train, eval, score or the name of a script.
        arguments: its command line, in the folder that the fixture `place` makes.
        said: parts of the message.
        lines: problems named, one line each.
    """

    command: str
    arguments: tuple[str, ...]
    said: tuple[str, ...]
    lines: int = 1

    def __str__(self) -> str:
        return " ".join((self.command, *self.arguments[-2:]))[:120]


def case(command: str, arguments: str, *said: str, lines: int = 1) -> Case:
    """A case whose arguments hold no blanks."""
    return Case(command, tuple(arguments.split()), said, lines)


KADID = (
    "dataset=kadid dataset.split.by=reference dataset.split.fractions=[.6,.2,.2] logger=none "
    "max_steps=8 loader.images_per_batch=4 loader.workers=0 validation.test=false "
    "dataset.root="
)

TRAIN = (
    case("train", "dataset=kadid+nosuch", "dataset/nosuch", "Available options", "koniq"),
    case("train", "dataset=kadid+kadid", "dataset=kadid+kadid", "stands twice"),
    case("train", "dataset=kadid+", "dataset=kadid+", "write dataset=a+b"),
    case("train", "dataset=+", "dataset=+"),
    case("train", "optimizer.lrr=1", "optimizer.lrr"),
    case("train", "+optimizer.lrr=1", "optimizer.lrr: unknown key"),
    case("train", "++optimizer.lrr=1", "optimizer.lrr: unknown key"),
    case("train", "nosuch=1", "nosuch"),
    case("train", "optimizer.lr=abc", "optimizer.lr='abc'", "valid number"),
    case("train", "optimizer.lr=-1", "optimizer.lr=-1", "greater than 0"),
    case("train", "optimizer.lr=nan", "optimizer.lr=nan"),
    case("train", "optimizer.lr=inf", "optimizer.lr=inf"),
    case("train", "optimizer.lr=null", "optimizer.lr=None"),
    case("train", "optimizer.lr=[1,2]", "optimizer.lr=[1, 2]"),
    case("train", "optimizer.lr={a:1}", "optimizer.lr={'a': 1}"),
    case("train", "optimizer.lr=${model_default:speed}", "model_default:speed", "lr_adapters"),
    case("train", "~model", "model: missing"),
    case("train", "model.recommended.lr=0", "model.recommended.lr=0", "optimizer.lr=0", lines=2),
    case("train", "+model.recommended.speed=1", "model.recommended.speed: unknown key"),
    case("train", "model.recommended.dtype=int8", "model.recommended.dtype='int8'",
         "model.dtype='int8'", lines=2),
    case("train", "optimizer=3", "optimizer=3"),
    case("train", "optimizer=" + "a" * 5000, "File name too long"),
    case("train", "optimizer=sgdd", "sgdd", "adamw"),
    case("train", "reward=1e400", "reward=1e400"),
    case("train", "rollout=nosuch", "rollout", "vllm_server"),
    case("train", "rollout=vllm_server rollout.server.url=ftp://x", "rollout.server.url='ftp://x'"),
    case(
        "train",
        "rollout=vllm_server rollout.server.url=http://127.0.0.1:9 rollout.server.patience_s=0.1",
        "rollout.server.url=http://127.0.0.1:9", "no vLLM server (no answer within", "start it, or",
    ),
    case(
        "train",
        "rollout=vllm_server rollout.server.weights=adapter",
        "rollout.server.weights=adapter, model.lora=null", "set model.lora",
    ),
    case(
        "train",
        "rollout=vllm_colocated rollout.sampling.temperature=0.7",
        "rollout.engine=vllm_colocated, rollout.sampling.temperature=0.7",
        "rollout.sampling.top_k=0",
    ),
    case("train", "rollout=vllm_colocated", "pip install 'vqr1[vllm]'", "use rollout=local"),
    case(
        "train",
        "rollout=vllm_server hardware=cpu_2procs rollout.server.patience_s=4000",
        "rollout.server.patience_s=4000, rollout.server.timeout_s=600, "
        "hardware.collective_minutes=60", "lower them",
    ),
    case("train", "rollout.colocated.kv_cache_gib=0", "rollout.colocated.kv_cache_gib=0"),
    case("train", "rollout.importance_cap=0.5", "rollout.importance_cap=0.5", "equal to 1"),
    case("train", "grpo.group_size=1", "grpo.group_size=1", "greater than or equal to 2"),
    case("train", "grpo.group_size=2.5", "grpo.group_size=2.5", "integer"),
    case("train", "grpo.group_size=٣", "grpo.group_size=٣: no readable override"),
    case("train", "grpo.clip=-0.1", "grpo.clip=-0.1"),
    case("train", "grpo.pool=1", "grpo.pool=1", "must be global, rank, or a number of images"),
    case("train", "grpo.pool=2.5", "grpo.pool=2.5", "must be global, rank, or"),
    case("train", "grpo.pool=true", "grpo.pool=True", "must be global, rank, or"),
    case("train", "grpo.pool=half", "grpo.pool='half'", "must be global, rank, or"),
    case("train", "grpo.pool=null", "grpo.pool=None", "must be global, rank, or"),
    case("train", "grpo.pool=5", "grpo.pool=5: the 16 images of a step", "use one of 2, 4, 8, 16"),
    case(
        "train",
        "hardware=cpu_2procs loader.images_per_step=12 grpo.pool=8",
        "grpo.pool=8: the 12 images of a step", "use one of 2, 3, 4, 6, 12",
    ),
    case(
        "train",
        "hardware=cpu_2procs loader.images_per_step=2 grpo.pool=rank",
        "grpo.pool=rank, 2 processes, loader.images_per_batch=1", "needs at least 2",
    ),
    case("train", "model.dtype=float16", "model.dtype=float16, model.lora=null", "overflow"),
    case(
        "train",
        "model.dtype=float16 hardware.precision=bf16-mixed",
        "model.dtype=float16", "use model.dtype=float32",
    ),
    case("train", "model.dtype=float64", "model.dtype='float64'"),
    case("train", "grpo.loss=mean", "grpo.loss='mean'", "response_mean"),
    case("train", "loader.images_per_batch=1", "loader.images_per_batch=1", "at least 2"),
    case("train", "loader.workers=-1", "loader.workers=-1"),
    case("train", "reward=nosuch", "reward/nosuch", "fidelity"),
    case("train", "reward.terms.format._target_=a.B", "reward.terms.format._target_=a.B"),
    case("train", "reward.terms.format._target_=os.system", "reward.terms.format"),
    case("train", "+reward.terms.own._target_=fractions.Fraction", "reward.terms.own",
         "no reward", "ranks"),
    case("train", "reward.terms.fidelity.gamma=0", "gamma=0: must be above"),
    case("train", "reward.terms.fidelity.gamma=1e-60", "gamma=1e-60: must be above 0 (1e-38 at"),
    case("train", "reward=margin reward.terms.margin.width=1e-30", "width=1e-30: must be above 0"),
    case("train", "+reward.terms.format.gain=2", "reward.terms.format", "gain"),
    case("train", "+reward.terms.format.weight=nan", "reward.terms.format.weight=nan"),
    case("train", "max_steps=null", "max_steps=None", "max_epochs=None"),
    case("train", "max_epochs=2", "max_steps=300", "max_epochs=2"),
    case("train", "max_steps=0", "max_steps=0"),
    case("train", "seed=-1", "seed=-1"),
    case("train", "seed=4294967296", "seed=4294967296"),
    case("train", "rollout.sampling.temperature=0", "temperature=0", "above 0"),
    case("train", "rollout.sampling.top_p=0", "rollout.sampling.top_p=0"),
    case("train", "rollout.sampling.max_new_tokens=0", "max_new_tokens=0"),
    case("train", "prompt=describe", "prompt=describe", "prompt=thinking"),
    case("train", "prompt.score_range=[5,1]", "prompt.score_range", "lower one first"),
    case("train", "prompt.score_range=[1]", "prompt.score_range"),
    case("train", "hardware=cluster", "hardware", "cpu"),
    case("train", "hardware.precision=64", "hardware.precision=64"),
    case("train", "hardware=8gpu_fsdp2 hardware.devices=99", "PyTorch finds", "on this machine"),
    case("train", "hardware.attention=flash_attention_4", "hardware.attention='flash_attention_4'"),
    case("train", "hardware=cpu_2procs loader.images_per_step=9", "images_per_step=9", "8 or 10"),
    case("train", "hardware.reference=disk", "hardware.reference='disk'", "host"),
    case("train", "grpo.reference_sync_every=0", "grpo.reference_sync_every=0"),
    case("train", "grpo.reference_mixup=0", "grpo.reference_mixup=0"),
    case("train", "grpo.kl_weight=0 grpo.reference_sync_every=5", "there is no reference"),
    case("train", "logger.tracking_uri=nosuch://x max_steps=1", "logger.tracking_uri=nosuch://x"),
    case("train", "logger.tracking_uri=sqlite:///text.txt", "text.txt", "not a database"),
    case("train", "logger.wait_seconds=0", "logger.wait_seconds=0"),
    case("train", "logger.tags=[1]", "logger.tags=[1]"),
    case("train", "seed=${nosuch}", "nosuch"),
    case("train", "seed=${", "seed=${"),
    case("train", "seed", "seed"),
    case("train", "=1", "=1"),
    case("train", "dataset=[", "dataset=["),
    case("train", "model.path=gone/model", "model.path=gone/model"),
    case("train", "model.path=text.txt", "model.path=text.txt"),
    case("train", "model.path=empty", "model.path=empty"),
    case("train", "model.min_pixels=0", "model.min_pixels=0"),
    case("train", "dataset=kadid", "dataset.root"),
    case("train", "dataset=kadid+tid", "dataset.parts.kadid.root", "dataset.parts.tid.root",
         lines=2),
    case("train", "dataset=kadid dataset.root=gone", "dataset.root", "gone"),
    case("train", "dataset=kadid dataset.root=text.txt", "dataset.root", "text.txt"),
    case(
        "train",
        KADID + "good dataset.mos_scale=published prompt.score_range=[0,100] reward=mse",
        "dataset.mos_scale=published, prompt.score_range=[0.0, 100.0]: the MOS run from",
        "reward.terms.mse", "use mos_scale=minmax",
    ),
    case(
        "train",
        KADID + "good dataset.mos_scale=published prompt.score_range=[0,1] reward=margin",
        "prompt.score_range=[0.0, 1.0]: the MOS run from", "reward.terms.margin",
    ),
    case("train", KADID + "empty", "dataset.root", "dmos.csv"),
    case("train", KADID + "no_rows", "no labelled images"),
    case("train", KADID + "blank", "dmos.csv: the file is empty"),
    case("train", KADID + "binary", "dmos.csv:2", "not UTF-8"),
    case("train", KADID + "not_a_number", "dmos.csv:8", "nan"),
    case("train", KADID + "leaving", "dmos.csv:3", "leaves the image folder"),
    case("train", KADID + "twice", "dmos.csv:3", "already listed"),
    case("train", KADID + "link", "is a link that leaves the image folder"),
    case("train", KADID + "missing", "I02_01_03.png", "no such file"),
    case("train", KADID + "cut", "I02_01_03.png", "does not decode"),
    case("train", KADID + "bomb", "I02_01_03.png", "does not decode"),
    case("train", KADID + "good dataset.label_file=gone.csv", "dataset.label_file='gone.csv'"),
    case("train", KADID + "good dataset.label_file=../text.txt", "dataset.label_file"),
    case("train", KADID + "good dataset.image_folder=gone", "gone"),
    case("train", KADID + "good dataset.split.by=files", "dataset.split.files"),
    case("train", KADID + "good dataset.split.fractions=[.9,.9,.9]", "fractions"),
    case("train", KADID + "good dataset.max_images=1", "dataset.max_images=1: of kadid (1 train"),
    case(
        "train", KADID + "good dataset.max_images=1 reward=margin",
        "dataset.max_images=1", "never one with its own copy",
    ),
    case(
        "train", "hardware=cpu_2procs grpo.pool=rank loader.images_per_batch=1",
        "loader.images_per_batch=1", "needs at least 2",
    ),
    case("train", "run_dir=text.txt " + KADID + "good", "run_dir=text.txt"),
    case("train", "run_dir=/proc/nowhere " + KADID + "good", "run_dir=/proc/nowhere"),
    case("train", KADID + "good loader.cache_dir=text.txt", "loader.cache_dir"),
    case("train", "run_dir=evaluated " + KADID + "good", "run_dir=evaluated: this folder holds an "
         "evaluation; choose an empty folder"),
    case("train", "run_dir=reported " + KADID + "good", "an evaluation by an earlier version"),
    case("train", "run_dir=photos " + KADID + "good", "run_dir=photos: this folder holds one.png"),
    case("train", "hardware=cpu_2procs run_dir=swept " + KADID + "good",
         "run_dir=swept: this folder holds a sweep"),
    case("train", "hydra.run.dir=evaluated " + KADID + "good", "hydra.run.dir=evaluated: this"),
    case("train", "-m seed=1,2 hydra.sweep.dir=trained " + KADID + "good",
         "hydra.sweep.dir=trained: this folder holds a training"),
    case("train", "-m seed=1,2 hydra.sweep.dir=photos " + KADID + "good",
         "hydra.sweep.dir=photos: this folder holds one.png, which a sweep did not write"),
    case("train", KADID + "comma", "dmos.csv:2: 6 columns, expected 4", "with a point"),
    case("train", KADID + "named_twice", "dmos.csv:1: column 'dmos' stands 2 times"),
)  # fmt: skip

EVAL = (
    case("eval", "part=most", "part='most'", "train"),
    case("eval", "mode=best", "mode", "greedy"),
    case("eval", "mode.samples=0", "mode.samples=0"),
    case("eval", "mode=greedy mode.samples=3", "mode.samples=3", "one answer"),
    case("eval", "prompt=describe", "prompt=describe"),
    case("eval", "model.run=nosuch logger.tracking_uri=sqlite:///gone.db", "no MLflow database"),
    case("eval", "model.run=best logger.tracking_uri=nosuch://x", "nosuch://x"),
    case("eval", "model.path=gone", "model.path=gone"),
    case("eval", "model.path=damaged", "damaged/training_images.csv: line 2: 1 fields, expected 5"),
    case("eval", "predictions=gone.csv", "gone.csv"),
    case("eval", "predictions=empty", "empty"),
    case("eval", "predictions=text.txt", "text.txt"),
    case("eval", "predictions=blank.csv", "blank.csv"),
    case("eval", "predictions=no_mos.csv", "no_mos.csv", "mos"),
    case("eval", "predictions=words.csv", "words.csv", "good"),
    case("eval", "predictions=binary.parquet", "binary.parquet"),
    case("eval", "predictions=a.csv compare=[a,b]", "predictions, compare"),
    case("eval", "compare=[empty]", "compare=['empty']", "at least two"),
    case("eval", "compare=[empty,gone]", "empty"),
    case("eval", "compare=empty", "compare='empty'"),
    case("eval", "figures.level=1", "figures.level=1"),
    case("eval", "figures.curves=[spline]", "figures.curves"),
    case("eval", "figures.bootstrap_draws=-1", "figures.bootstrap_draws=-1"),
    case("eval", "output=xlsx", "output='xlsx'"),
    case("eval", "predictions=comma.csv", "comma.csv:2: 4 columns, expected 3", "with a point"),
    case("eval", "predictions=named_twice.csv", "named_twice.csv:1: column 'mos' stands 2 times"),
    case("eval", "predictions=semicolons.csv", "semicolons.csv", "separated by semicolons"),
    case("eval", "compare=[comma.csv,no_mos.csv]", "comma.csv:2: 4 columns, expected 3"),
    case("eval", "run_dir=trained", "run_dir=trained: this folder holds a training; choose an"),
    case("eval", "run_dir=trained predictions=right.csv", "run_dir=trained: this folder holds a"),
    case("eval", "run_dir=trained compare=[a,b]", "run_dir=trained: this folder holds a training"),
    case("eval", "run_dir=swept", "run_dir=swept: this folder holds a sweep"),
    case("eval", "run_dir=job", "run_dir=job: this folder holds a training"),
    case("eval", "run_dir=photos", "run_dir=photos: this folder holds one.png"),
    case("eval", "run_dir=evaluated predictions=right.csv", "run_dir='evaluated': the evaluation "
         "there is one of another kind"),
    case("eval", "hydra.run.dir=trained", "hydra.run.dir=trained: this folder holds a training"),
)  # fmt: skip

SCORE = (
    case("score", "gone.png", "gone.png: no such file or folder"),
    case("score", "empty", "empty: no images in this folder"),
    case("score", "*.png", "*.png: no image matches"),
    case("score", "mode=greedy", "no images: name files"),
    case("score", "photos output=scores.xlsx", "output=scores.xlsx"),
    case("score", "photos output=gone/a.csv", "there is no folder gone"),
    case("score", "photos output=empty format=csv", "output=empty"),
    case("score", "photos output=/proc/a.csv", "output=/proc/a.csv"),
    case("score", "photos batch_size=0", "batch_size=0"),
    case("score", "photos batch_size=many", "batch_size='many'"),
    case("score", "photos color=red", "Could not override 'color'"),
    case("score", "photos mode=best", "Available options"),
    case("score", "photos mode.samples=3", "mode.samples=3"),
    case("score", "photos model.path=gone", "model.path=gone"),
    case("score", "photos hardware=1gpu hardware.devices=2", "hardware.devices=2"),
    case("score", "photos seed=x", "seed='x'"),
    case("score", "photos hardware=[1,2]", "hardware=[1,2]"),
    case("score", "gone *.png", "gone: no such file or folder", "*.png: no image matches", lines=2),
    case("score", "photos column=file", "column=file: none of the paths is a list"),
    case("score", "photos pairs=p.csv", "pairs=p.csv: only task=compare (--mode compare) has"),
    case("score", "photos --mode compare mode=greedy", "task=compare, mode=greedy"),
    case("score", "photos --mode compare prompt=describe", "it asks for no score, so there is"),
    case("score", "photos --mode compare results=a.csv", "results=a.csv: its images are comp"),
    case("score", "--mode compare results=none.csv", "none.csv: cannot be read (No such"),
    case(
        "score",
        "--mode compare results=a.csv output=a.csv",
        "output=a.csv: another key names",
    ),
    case(
        "score",
        "photos prompt.score_range=[0,10]",
        "mode=expected, prompt.score_range=[0.0, 10.0]",
    ),
    case(
        "eval",
        "mode=expected prompt.score_range=[0,10]",
        "use mode=greedy or mode=sampled",
    ),
    case("score", "photos backend=vllm", "backend=vllm: vLLM cannot be imported"),
    case("score", "photos backend=openai backend.url=ftp://a", "backend.url='ftp://a': "),
    case("score", "photos backend=openai backend.retries=-1", "backend.retries=-1: "),
    case("score", "photos backend.name=mine", "backend={'name': 'mine'}: its key name must be"),
    case("score", "photos prompt=poem", "prompt/poem"),
    case("score", "photos format=xml", "format='xml'"),
    case("score", "photos output=no_mos.csv", "output=no_mos.csv: the file exists, and no no_mos",
         "remove it first"),
    case("score", "photos output=no_mos.csv resume=false", "output=no_mos.csv: the file exists, "
         "and this command did not write it"),
    case("score", "photos output=text.txt", "output=text.txt: the file exists, and this command"),
    case("score", "photos output=photos/one.png format=table", "output=photos/one.png: the file"),
    case("score", "photos/one.png output=photos/one.png format=csv", "the command reads this file"),
    case("score", "photos/one.png photos --mode compare output=text.txt", "output=text.txt: the "
         "file exists, and this command did not write it"),
    case("score", "photos/one.png photos --mode compare pairs=no_mos.csv", "pairs=no_mos.csv: the "
         "file exists, and this command did not write it"),
    case("score", "list.csv", "list.csv:3: 2 columns, expected 1", "quote a text that holds a c"),
    case("score", "comma.csv", "comma.csv:2: 4 columns, expected 3"),
    case("score", "--mode compare results=results.csv", "results.csv:3: image 'a.png' was already"),
    case("score", "--mode compare results=results.jsonl", "results.jsonl:1: not a row"),
)  # fmt: skip

SCRIPTS = (
    case("prepare", "dataset=kadid", "dataset.root"),
    case("prepare", "dataset=kadid dataset.root=gone", "gone"),
    case("prepare", "dataset=nosuch", "dataset/nosuch"),
    case("prepare", "dataset=3", "dataset=3"),
    case("prepare", KADID.split()[0] + " dataset.root=good --out /proc/x.jsonl", "/proc/x.jsonl"),
    case("inspect_dataset", "dataset=kadid dataset.root=blank", "dmos.csv: the file is empty"),
    case("inspect_dataset", "dataset=csv dataset.root=good", "label_file"),
    case("inspect_dataset", "dataset=jsonl dataset.root=jsonl dataset.label_file=deep.jsonl",
         "deep.jsonl:1"),
    case("inspect_dataset", "dataset=jsonl dataset.root=jsonl dataset.label_file=list.jsonl",
         "list.jsonl:1", "expected an object"),
    case("inspect_dataset", "dataset=live dataset.root=matlab", "dmos_realigned.mat"),
    case("inspect_dataset", "dataset=spaq dataset.root=sheet", ".xlsx"),
    case("sync_tracking", "gone", "gone: no tracking/journal.jsonl"),
    case("sync_tracking", "text.txt", "text.txt: no tracking/journal.jsonl"),
    case("sync_tracking", "empty gone", "empty: no", "gone: no", lines=2),
    case("sync_tracking", "journal --tracking-uri nosuch://x", "nosuch://x"),
    case("export", "run=gone", "run=gone"),
    case("export", "", "run"),
    case("export", "run=empty output=good", "output=good: exists already"),
    case("export", "run=empty output=new", "empty"),
    case("export", "run=empty hydra.run.dir=trained", "hydra.run.dir=trained: this folder holds a"),
    case("prepare", "dataset=kadid dataset.root=good dataset.split.by=none --part all "
         "--out text.txt", "--out=text.txt: the file exists, and this command did not write it"),
    case("inspect_dataset", "dataset=kadid dataset.root=good dataset.split.by=none --out sheets",
         "--out=sheets/kadid.png: the file exists, and this command did not write it"),
    case("summarize", "folder=swept output=photos", "output=photos: this folder holds one.png"),
    case("summarize", "folder=swept output=trained", "output=trained: this folder holds a train"),
    case("summarize", "folder=swept output=summed", "the summary of another sweep (train.py -m x)"),
    case("summarize", "folder=photos", "folder=photos: holds no sweep"),
)  # fmt: skip

CASES = (*TRAIN, *EVAL, *SCORE, *SCRIPTS)
