"""`vqr1 serve [key=value ...]`: scores, comparisons and descriptions over HTTP."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Sequence

from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.help import keys_if_asked, model_choices
from vqr1.cli.options import OptionParser
from vqr1.config import ServeConfig, ServerConfig, validate
from vqr1.config.folder import answer_of_prompt
from vqr1.config.model_defaults import lines_about
from vqr1.config.serving import JSON_COPIES
from vqr1.errors import ConfigError
from vqr1.inference.mode_checks import backend_problems, mode_problems, served_image_problems
from vqr1.inference.score_checks import notes_on
from vqr1.program import program
from vqr1.standard_streams import guard_output
from vqr1.student.files import is_student

_EXAMPLES = """\
MODELS
         prompt=thinking|non_thinking   mode=expected|sampled (mode.samples=N)|greedy|levels
         backend=local|openai|vllm   hardware=cpu|1gpu   host=ADDRESS   port=N
         limits.KEY=N   batching.KEY=N

example: VQR1_API_KEY=... SERVE host=0.0.0.0 port=8000"""


def serve(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP; SIGUSR1 loads the model again.

    Args:
        arguments: overrides of `conf/serve.yaml`.

    Returns:
        The exit code 0.

    Raises:
        UserError: configuration, address or model are not as they should be.
    """
    parser = OptionParser(
        "serve",
        description="Serve scores, comparisons and descriptions of images over HTTP.",
        epilog=_EXAMPLES.replace("MODELS", model_choices()).replace("SERVE", program("serve"))
        + keys_if_asked("serve", ServeConfig, arguments),
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration overrides")
    overrides = parser.parse_args(arguments).overrides
    guard_output()
    composed = compose_config("serve", overrides)
    config = validate(ServeConfig, plain_values(composed))
    check_serving(config)
    key = os.environ.get(config.api_key_env) or None
    if key is None and not is_loopback(config.host):
        sys.stderr.write(
            f"warning: host={config.host} lets other machines in, and no key is asked for; set "
            f"{config.api_key_env}\n"
        )

    # Importing PyTorch takes seconds; a mistake on the command line is reported before.
    from vqr1.inference.backends import build_backend
    from vqr1.inference.scorer import Scorer
    from vqr1.inference.service import run
    from vqr1.inference.service.app import create_app
    from vqr1.inference.service.served import Served, ServiceInfo
    from vqr1.inference.tested_scores import read_tested_scores

    sys.stderr.writelines(f"{note}\n" for note in notes_on(config))
    listener = run.bind(config.host, config.port)

    def load() -> Served:
        images = max(config.prompt.images, config.describe.images)
        backend = build_backend(config.backend, config.model, config.hardware, images=images)
        scorer = Scorer(backend, config.prompt, config.answer.form, config.mode, seed=config.seed)
        describer = None
        if not is_student(config.model):
            form = config.describe_answer.form
            describer = Scorer(backend, config.describe, form, config.mode, seed=config.seed)
        tested = read_tested_scores(config.model.path, config.prompt.name)
        return Served(scorer, describer, tested)

    with run.reloads_ignored():
        served = load()
        sys.stderr.writelines(f"{line}\n" for line in lines_about(composed, if_other=True))
        info = ServiceInfo(
            _model_name(config),
            config.prompt.name,
            None if served.describer is None else config.describe.name,
            config.mode.name,
        )
        app = create_app(served, info, config.limits, config.batching, config.comparison, key, load)
        run.serve(app, listener, config.limits, config.trusted_proxies)
    return 0


def _model_name(config: ServeConfig) -> str:
    """What answers: with a server the group `model` states the size of images only."""
    if isinstance(config.backend, ServerConfig):
        return config.backend.model or config.backend.url
    return config.model.path or config.model.name


def check_serving(config: ServeConfig) -> None:
    """Check keys that belong together.

    Raises:
        ConfigError: every problem.
    """
    problems = mode_problems(config.mode, config.answer.form)
    problems += backend_problems(config.backend, config.mode, config.model)
    problems += served_image_problems(config.prompt)
    problems += served_image_problems(config.describe, "describe")
    if not config.answer.form.scored:
        problems.append(
            f"prompt={config.prompt.name}: it asks for no score; descriptions are at /describe, "
            "with the prompt `describe`"
        )
    if config.describe_answer.form.scored:
        problems.append(
            f"describe_answer._target_={config.describe_answer.target}: it reads a score; "
            "descriptions have none, use answer@describe_answer=free"
        )
    if answer_of_prompt(config.describe.name) not in (None, "free"):
        problems.append(
            f"describe={config.describe.name}: it asks for a score; take a prompt that asks for a "
            "description"
        )
    if config.limits.max_images > config.limits.queue_size:
        problems.append(
            f"limits.max_images={config.limits.max_images}: one request must fit into "
            f"limits.queue_size={config.limits.queue_size}"
        )
    if JSON_COPIES * config.limits.max_bytes > config.limits.queue_bytes:
        problems.append(
            f"limits.max_bytes={config.limits.max_bytes}: one request must fit into "
            f"limits.queue_bytes={config.limits.queue_bytes}, {JSON_COPIES} times over as JSON"
        )
    problems += _proxy_problems(config.trusted_proxies)
    if config.hardware.devices * config.hardware.nodes > 1:
        problems.append(
            f"hardware.devices={config.hardware.devices}, hardware.nodes={config.hardware.nodes}: "
            "the service runs in one process; set both to 1, and start one service a device"
        )
    if problems:
        raise ConfigError(problems)


def _proxy_problems(proxies: Sequence[str]) -> list[str]:
    problems = []
    for proxy in proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError as error:
            problems.append(
                f"trusted_proxies={proxy}: {error}; give addresses or networks, such as 10.0.0.0/8"
            )
    return problems


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
