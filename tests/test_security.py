"""What the sources must not do, and what is hidden from the log."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from vqr1.data.images import load_image
from vqr1.errors import ConfigError, DataError
from vqr1.tracking.secrets import is_secret, masked, masked_text, masked_uri

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    *sorted((ROOT / "vqr1").rglob("*.py")),
    *sorted((ROOT / "scripts").rglob("*.py")),
    *sorted(ROOT.glob("*.py")),
]
FORBIDDEN = {
    "eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "joblib.load", "dill.load", "dill.loads", "cloudpickle.load", "marshal.loads", "shelve.open",
    "yaml.load", "yaml.full_load", "yaml.unsafe_load", "pd.read_pickle", "torch.hub.load",
    "tempfile.mktemp",
}  # fmt: skip


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def problems(source: str) -> list[str]:
    """Insecure calls in a source text."""
    found = []
    for name, call in calls(ast.parse(source)):
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if name in FORBIDDEN:
            found.append(name)
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if given.get("trust_remote_code", "False") != "False":
            found.append("trust_remote_code")
        if given.get("shell", "False") != "False":
            found.append("shell=True")
        if given.get("allow_pickle", "False") != "False":
            found.append("allow_pickle=True")
        if given.get("use_safetensors", "True") != "True":
            found.append("use_safetensors=False")
        if given.get("host") in ("'0.0.0.0'", "'::'"):
            found.append("listens on every address")
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_insecure_calls(file: Path) -> None:
    assert problems(file.read_text(encoding="utf-8")) == []


def test_the_scan_sees_what_it_looks_for() -> None:
    source = """
torch.load(f)
torch.load(f, weights_only=False)
torch.load(f, weights_only=True)
pickle.load(f); yaml.load(f); yaml.safe_load(f); eval(x); model.eval()
AutoModel.from_pretrained(x, trust_remote_code=True)
AutoModel.from_pretrained(x, trust_remote_code=flag)
subprocess.run(x, shell=True); np.load(x, allow_pickle=True)
uvicorn.run(app, host='0.0.0.0')
"""
    assert len(problems(source)) == 10


def test_pages_are_served_on_loopback() -> None:
    text = (ROOT / "Makefile").read_text()
    assert "mlflow ui --host 127.0.0.1" in text
    for file in [*(ROOT / "conf").rglob("*.yaml"), ROOT / "Makefile"]:
        # Comments may name the address; a value must not.
        values = [line.split("#")[0] for line in file.read_text().splitlines()]
        assert not any("0.0.0.0" in value for value in values), file


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("api_key", True), ("hub.token", True), ("HF_TOKEN", True), ("apiKey", True),
        ("db.password", True), ("client_secret", True), ("Authorization", True),
        ("max_new_tokens", False), ("micro_batch_tokens", False), ("tokenizer", False),
        ("monitor", False), ("keyboard", False), ("token.length", False), ("author", False),
    ],
)  # fmt: skip
def test_what_is_a_secret(name: str, secret: bool) -> None:
    assert is_secret(name) is secret


def test_masking() -> None:
    values = {
        "logger": {"tracking_uri": "https://me:pass@host/x", "tags": {"api_key": "abc"}},
        "model": {"path": "a/b", "token": {"value": "abc", "length": 3}},
        "sampling": {"max_new_tokens": 256},
        "hosts": ["http://u:p@h", "plain"],
        "note": "hf_" + "a" * 30,
    }
    assert masked(values) == {
        "logger": {"tracking_uri": "https://***@host/x", "tags": {"api_key": "***"}},
        "model": {"path": "a/b", "token": {"value": "***", "length": 3}},
        "sampling": {"max_new_tokens": 256},
        "hosts": ["http://***@h", "plain"],
        "note": "***",
    }
    command = "train.py logger.tags.api_key=abc seed=1 +hub_token='a b' uri=https://x/?token=1&a=2"
    assert masked_text(command) == (
        "train.py logger.tags.api_key=*** seed=1 +hub_token=*** uri=https://x/?token=***&a=2"
    )


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://u:pa/ss@host/db", "postgresql://***@host/db"),
        ("https://u:p@ss@host/x", "https://***@host/x"),
        ("mysql://host/db?user=u&password=p&a=1#x", "mysql://host/db?user=u&password=***&a=1#x"),
        ("postgresql://host/db?sslpassword=p", "postgresql://host/db?sslpassword=***"),
        ("https://host:5000/a?b=c", "https://host:5000/a?b=c"),
        ("https://host/users/@me", "https://host/users/@me"),
    ],
)
def test_addresses_without_secrets(address: str, shown: str) -> None:
    assert masked_uri(address) == masked_text(address) == shown
    assert masked_uri(f"cannot open '{address}' now") == f"cannot open '{shown}' now"


def test_largest_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 30)).save(path)
    monkeypatch.setenv("VQR1_MAX_IMAGE_PIXELS", "1199")  # 40 x 30 = 1200
    with pytest.raises(DataError, match=r"40 x 30 pixels; more than 1199 .*VQR1_MAX_IMAGE_PIXELS"):
        load_image(path)
    monkeypatch.setenv("VQR1_MAX_IMAGE_PIXELS", "1200")
    assert load_image(path).size == (40, 30)
    monkeypatch.setenv("VQR1_MAX_IMAGE_PIXELS", "many")
    with pytest.raises(ConfigError, match="VQR1_MAX_IMAGE_PIXELS=many"):
        load_image(path)
