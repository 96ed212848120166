# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Inspect a run
#
# Reads the `report.json` of a finished run: `recdistill run pipelines/jobs/demo.yaml --out runs/demo`.
# Set `RECDISTILL_RUN` to look at another one.

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

root = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "pyproject.toml").exists())
run = Path(os.environ.get("RECDISTILL_RUN", root / "runs" / "demo"))
report = json.loads((run / "report.json").read_text())
print(
    f"{report['name']}: foundation {report['params']['foundation']:,} parameters, "
    f"student {report['params']['student']:,} ({report['params']['compression']:.1f} times smaller), "
    f"seeds {report['seeds']}"
)

# %% [markdown]
# ## Every model on the test rows
# AUC: higher is better. NE: lower is better. Intervals are over test rows and seeds.

# %%
models = pd.DataFrame(
    {
        name: {f"{metric} {part}": stats[metric][part] for metric in ("auc", "ne") for part in ("mean", "low", "high")}
        for name, stats in report["models"].items()
    }
).T
print(models.astype(float).round(4).to_string())

# %% [markdown]
# ## How much of the gap each method recovers
# 0% is the student alone, 100% the foundation.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3), sharey=True, layout="constrained")
for axis, metric in zip(axes, ("auc", "ne"), strict=True):
    axis.set_title(f"{metric.upper()} gap recovered")
    found = {name: method[metric] for name, method in report["gap_recovered"].items() if method[metric] is not None}
    if not found:
        axis.text(0.5, 0.5, "no gap to recover", ha="center", transform=axis.transAxes)
        continue
    stats = pd.DataFrame(found).T[["mean", "low", "high"]].astype(float)
    errors = [stats["mean"] - stats["low"], stats["high"] - stats["mean"]]
    axis.barh(stats.index, stats["mean"], xerr=errors, color="#4a78c4", capsize=3)
    axis.axvline(0, color="black", linewidth=1)
    axis.axvline(1, color="black", linewidth=1, linestyle="--")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
plt.show()

# %% [markdown]
# ## Where each teacher counts
# Mean importance that the aligner gives to each teacher on the test rows.

# %%
importance = report.get("importance") or {}
print(json.dumps(importance.get("overall", importance), indent=1))
