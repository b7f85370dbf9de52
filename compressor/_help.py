"""The page of `compress-run --help` and the answers to tab completion."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from collections.abc import Callable
from typing import Any

from compressor.configuration import Menu

PAGE = """\
compress-run: train a network, make it smaller, recover its accuracy, measure and save the result.

  compress-run [FLAGS] group=option ... key=value ...

Groups and their options (one option is chosen with group=option):
{groups}

Keys (every line of a YAML file is one; `compress-run --cfg job` prints them all with their values):
  prune.ratio=0.5 train.epochs=5 seed=1         a value, checked against the file's type
  distill='[kd,...]'                            several distillers at once
  model._target_=my.module.Net model=custom     a network class of your own
  baselines=true                                also train on the noisy, the clean and the mixed
                                                labels alone, to compare a run with noise with
  plan_only=true                                print the plan and stop before the first epoch

Sweeps: commas are values to run one after another, with -m; finished stages are shared, a failed
member does not stop the others, and the same hydra.sweep.dir again runs only what is missing.
  compress-run -m prune=none,thinet,apoz,weight_sum,random prune.ratio=0.3,0.5 seed=0,1,2
  compress-run -m hydra/launcher=joblib hydra.launcher.n_jobs=4 ...    four at a time; likewise
                                                submitit_local, submitit_slurm, ray
  compress-run -m hydra/sweeper=optuna hydra.sweeper.direction=maximize \\
      hydra.sweeper.n_trials=20 'prune.ratio=interval(0.2,0.8)'    a search for the best objective
  compress-run -m experiment=search_ratio       a ready one: accuracy against MACs

Examples:
  compress-run prune=thinet model=resnet50
  compress-run model=resnet20 dataset=fashion_mnist noise=symmetric noise.rate=0.4 robust=gce
  compress-run model=timm model.name=tinynet_e prune=weight_sum prune.ratio=0.3
  compress-run --config-dir conf prune=mine     with conf/prune/mine.yaml, a file of your own

Results: outputs/runs/DATE/TIME (or hydra.run.dir=FOLDER), of a sweep outputs/multiruns/DATE/TIME.
In Python: compressor.load("RUN_FOLDER/model").

Flags:
  --help, -h               this page          --cfg job, -c job     print the composed configuration
  --multirun, -m           sweep              --config-dir, -cd     a folder with files of your own
  --hydra-help             Hydra's own        --version             Hydra's version
  -sc install=bash         tab completion: eval "$(compress-run -sc install=bash)"

Exit codes: 0 done, 1 something failed while running (in a multirun: any member), 2 the command or
its configuration is wrong, 130 interrupted. HYDRA_FULL_ERROR=1 shows the traceback."""


def help_text(menu: Menu) -> str:
    """The help page; the option that is chosen by default is marked with a star."""
    lines = []
    for group in menu.groups():
        default = menu.default(group)
        marked = [f"{name}*" if name == default else name for name in menu.options(group)]
        # these groups' own files are not for choosing
        if default == "auto":
            marked.insert(0, "(fits dataset and model)*")
        text = ", ".join(marked)
        lines += textwrap.wrap(
            text, width=96, initial_indent=f"  {group:<12}", subsequent_indent=" " * 14
        )
    lines.append("  (* the default)")
    return PAGE.format(groups="\n".join(lines))


def completions(query: Callable[[], Any]) -> str:
    """What Hydra answers to a completion query, without the files that only others inherit."""
    answer = io.StringIO()
    with contextlib.redirect_stdout(answer):
        query()
    words = answer.getvalue()
    return re.sub(r"\S+=(?:_\S*|by_\S*|auto)(?=\s|$)[ ]?", "", words)
