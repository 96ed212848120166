# %% [markdown]
# # Compare runs over nights
#
# Takes every finished run in `runs/`, the oldest first; `RECDISTILL_RUNS` in the environment names another folder.
# On the command line: `recdistill compare runs/* --html nights.html`.

# %%
import os
from pathlib import Path

import pandas as pd

from recdistill import analysis
from recdistill.evaluate.compare import compare
from recdistill.evaluate.compare_page import headline, render_comparison

root = Path.cwd() if Path("notebooks").is_dir() else Path.cwd().parent
folder = Path(os.environ.get("RECDISTILL_RUNS", root / "runs"))
runs = analysis.find_runs(folder)
if not runs:
    raise SystemExit(f"There is no finished run in {folder}: go through 01_quick_start first.")
if len(runs) == 1:
    print(
        f"{runs[0].label} is the only run, so there is nothing to set it against. Run another night, or change the job:"
    )
    print("recdistill run pipelines/jobs/sample.yaml --out runs/another --set distill.soft_weight=3")

# %% [markdown]
# ## Side by side

# %%
table = analysis.readable(analysis.side_by_side(runs))
print(table.to_string())

# %%
analysis.recovered_by_run(runs)

# %% [markdown]
# ## From night to night
# Nights are judged on days of their own: what counts is the distance between the lines, not how high they are.

# %%
analysis.nights(runs)

# %% [markdown]
# ## Paired tests
# Runs that were judged on the same rows are tested against the first one, method by method. Plus is better, in NE too.

# %%
found = compare([run.folder for run in runs])
print(headline(found))
for pair in found["refused"]:
    print(f"{pair['run']} and {pair['against']}: {pair['reason']}.")

# %%
differences = {(pair["method"], pair["run"]): pair["ne"] for pair in found["between"]}
pd.DataFrame(differences).T

# %% [markdown]
# ## A page to pass on

# %%
page = folder / "comparison.html"
page.write_text(render_comparison(found), encoding="utf-8")
print(page)
