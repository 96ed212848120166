# %% [markdown]
# # Inspect a run
#
# Opens the newest finished run in `runs/`; the environment variable `RECDISTILL_RUN` names another one.
# Nothing is computed here: every number comes from the run's `report.json` and `training.json`.

# %%
import os
from pathlib import Path

from recdistill import analysis

root = Path.cwd() if Path("notebooks").is_dir() else Path.cwd().parent
found = analysis.find_runs(os.environ.get("RECDISTILL_RUNS", root / "runs"))
named = os.environ.get("RECDISTILL_RUN")
if not named and not found:
    raise SystemExit("There is no finished run yet: go through 01_quick_start first, or set RECDISTILL_RUN.")
run = analysis.open_run(named) if named else found[-1]
print(f"{run.label}: {run.headline} The student is {run.report['params']['compression']:.1f} times smaller.")

# %% [markdown]
# ## Can it be trusted?

# %%
print("\n".join(run.report["warnings"]) or "No warnings.")
run.gap()

# %% [markdown]
# ## Every model

# %%
table = analysis.readable(run.models()[["auc", "ne", "calibration"]])
print(table.to_string())

# %% [markdown]
# ## How much of the gap each method recovers, and whether one is better than another
# Below, by how much the first method is better than its foundation and each baseline, on the same rows and seeds;
# plus is better.

# %%
analysis.gap_bars(run)

# %%
analysis.readable(run.comparisons(), "+.4f")

# %% [markdown]
# ## Calibration
# On the dashed line, predictions are as high as clicks are frequent.

# %%
analysis.calibration_curves(run)

# %% [markdown]
# ## Whom the student listens to, over all and in slices
# `evaluate.slices` in the job says which features are cut.

# %%
analysis.importance_map(run)

# %%
features = [part["feature"] for part in run.report["slices"]]
analysis.importance_map(run, features[0]) if features else print("The job names no slices.")

# %% [markdown]
# ## Training, and what teachers cost
# The band is the range over seeds. A teacher pass is one teacher scoring one row.

# %%
analysis.training_curves(run)

# %%
run.passes()

# %% [markdown]
# ## What fewer teacher passes would cost (`teachers.route.curve` in the job)

# %%
analysis.trade_off(run)
