"""``roborl <verb>``: finds the verb's file, parses its configuration, prints its result and sets the exit code."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Sequence

from roborl.config import HelpShown, parse
from roborl.errors import ConfigError, RoborlError
from roborl.logs import log_to_stderr
from roborl.whole_files import as_json

VERBS = {
    "demo": "record, train a reward model, learn online from it, report: in simulation, on a CPU",
    "train": "actor, learner and reward server on one machine, supervised",
    "act": "drive a robot with the newest policy and ship its experience",
    "learn": "store experience, label it, train, publish weights",
    "serve": "judge camera streams for any number of clients",
    "watch": "follow one camera stream and print its progress",
    "record": "record demonstrations into a LeRobotDataset",
    "import": "turn an RLDS dataset of Open X-Embodiment into a LeRobotDataset",
    "evaluate": "measure the success rate of a policy, with an interval",
    "annotate": "mark the sub-tasks of a dataset's episodes",
    "train-reward": "train a reward model on a dataset",
    "bench-reward": "measure reward models before they are trusted",
    "label": "score every observation of a dataset with a reward model",
    "filter": "weigh a labelled dataset by its progress (RA-BC), and leave episodes out",
    "relabel": "make questions with scores from 1 to 5 out of recorded episodes",
    "bench": "measure transport, replay, weights, simulation, control and whole runs",
    "check": "look at this computer, its bench and cameras; --plan: what fits on its cards",
    "keys": "make CURVE keys for two computers",
}

# Packages by the extra that brings them.
_EXTRAS = {
    "learn": ("jinja2", "matplotlib", "num2words", "scipy", "efficientnet_lite_pytorch"),
    "vlm": ("accelerate", "httpx", "peft", "transformers"),
    "sim": ("mujoco",),
    "so101": ("scservo_sdk",),
    "gamepad": ("pygame",),
    "bench": ("grpc", "gym_hil", "lz4", "tensordict", "torchrl"),
}

# What a write to an open file fails with, which does not know its name.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return 0 when done, 1 when it failed, 2 on misuse."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        width = max(map(len, VERBS))
        print("usage: roborl VERB [--config_path FILE] [--field value ...]\n")
        print("\n".join(f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()))
        return 0 if args else 2
    verb, *rest = args
    if verb not in VERBS:
        print(f"roborl: there is no verb {verb!r}. Verbs: {', '.join(VERBS)}.", file=sys.stderr)
        return 2
    try:
        log_to_stderr()
        module = importlib.import_module(f"roborl.cli.{verb.replace('-', '_')}")
        rest = module.prepare_args(rest) if hasattr(module, "prepare_args") else rest
        config, rest = module.choose(rest) if hasattr(module, "choose") else (module.Config, rest)
        result = module.main(parse(config, rest, prog=f"roborl {verb}"))
    except HelpShown:
        return 0
    except ConfigError as error:
        print(f"roborl {verb}: {error}", file=sys.stderr)
        return 2
    except RoborlError as error:
        print(f"roborl {verb}: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = next((extra for extra, brings in _EXTRAS.items() if package in brings), None)
        if extra is None:
            raise
        missing = ConfigError(
            "A package that this needs is not installed",
            seen=package,
            allowed=f"what the extra [{extra}] brings",
            remedy=f"pip install 'roborl[{extra}]'",
        )
        print(f"roborl {verb}: {missing}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None and error.errno not in _DISK:
            raise
        place = ConfigError(
            "A file or folder cannot be used",
            seen=": ".join(
                filter(None, (error.filename and str(error.filename), error.strerror or str(error)))
            ),
            allowed="a place that can be read, or made and written",
            remedy="Give another path, make room, or mend its permissions",
        )
        print(f"roborl {verb}: {place}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"roborl {verb}: stopped by {str(stop) or 'Ctrl-C'}", file=sys.stderr)
        return 1
    if result is not None:
        print(as_json(result))
        return int(result.get("exit", 0))
    return 0
