# %% [markdown]
# # What bounds the student
#
# Why a small student falls behind, what rows that nobody was shown do about it, and what weighing teachers adds
# to their mean. `RECDISTILL_RUN` and `RECDISTILL_WITHOUT` name two finished runs of one job, with
# `distill.recombine` and without it; else both are made here from the shipped sample, which is too small for a claim.

# %%
import os
import shutil
from pathlib import Path

from recdistill import analysis

os.chdir(Path.cwd() if Path("notebooks").is_dir() else Path.cwd().parent)
runs = Path(os.environ.get("RECDISTILL_RUNS", "runs"))
if named := os.environ.get("RECDISTILL_RUN"):
    run, without = analysis.open_run(named), analysis.open_run(os.environ["RECDISTILL_WITHOUT"])
else:
    job, small = "pipelines/jobs/sample.yaml", ("distill.methods=[alone, mean, diverse]", "workers=1")
    without = analysis.run_job(job, runs / "quick-start", *small)
    if not (runs / "recombined").exists():
        shutil.copytree(without.folder, runs / "recombined", symlinks=True)  # its teachers are good for this one too
    pools = "distill.recombine={rows: 2, groups: [[item, category, brand, price, tags], [hour, weekday]]}"
    run = analysis.run_job(job, runs / "recombined", pools, *small)
print(f"{run.label}: {run.headline}\n{without.label}: {without.headline}")

# %% [markdown]
# ## Everybody on the same rows
# Squares are teachers, circles students; the line is the student alone. All students have the same size: what lies
# between them is what they were told, not how much they can hold.

# %%
analysis.ladder(run)

# %% [markdown]
# ## Does the student alone have too few impressions to learn from, or too few parameters?
# Where its curve turns up, it has begun to learn its rows by heart, and is stopped. A student that is told a
# probability instead of a click, about more rows than were logged, goes on getting better.

# %%
analysis.training_curves(run)

# %% [markdown]
# ## Rows that nobody was shown
# A teacher answers for rows that the log does not hold: this user before another item. The same methods with and
# without such rows, and what the teachers had to do for it.

# %%
analysis.recovered_by_run([without, run])

# %%
print(run.passes().to_string())

# %% [markdown]
# ## Weighing teachers, against their mean
# The mean of the committee listens to everybody alike, to teachers that know little too. `diverse` has learned whom to
# believe; look whether that differs from slice to slice.

# %%
analysis.importance_map(run)

# %%
features = [part["feature"] for part in run.report["slices"]]
analysis.importance_map(run, features[0]) if features else print("The job names no slices.")

# %% [markdown]
# By how much it is better than its foundation and each baseline, on the same rows and seeds; where an interval
# holds 0, nothing is known.

# %%
print(analysis.readable(run.comparisons(), "+.4f").to_string())
