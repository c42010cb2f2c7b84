"""MLflow: the server of MLFLOW_TRACKING_URI, else the folder `mlruns` of the working directory."""

import os
import shlex
import time
from pathlib import Path

from charladder.tracking.tracked_run import TrackedRun

# Set before the import. Newer versions refuse a folder without it, and mlflow-skinny has no database.
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

_RUN_TAG = "charladder.run"
_METRICS_AT_ONCE = 1000  # limits of a request
_PARAMETERS_AT_ONCE = 100
_MAX_PARAMETER_CHARACTERS = 500


class MlflowTracker:
    """A run of the experiment MLFLOW_EXPERIMENT_NAME, by default `charladder`; tags have the plan and the arm.

    MLflow cannot change parameters, so fields that --extend changed are tags.
    """

    def start(self, run: TrackedRun) -> str:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or Path("mlruns").resolve().as_uri()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "charladder"
        self._client = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(name)
        folder = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        found = self._client.search_runs([folder], f"tags.`{_RUN_TAG}` = '{run.identity}'", max_results=1)
        if found:
            self._id, known = found[0].info.run_id, dict(found[0].data.params)
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {_RUN_TAG: run.identity, **run.labels}
            self._id, known = self._client.create_run(folder, tags=tags, run_name=run.name).info.run_id, {}
        self._record_recipe({name: str(value)[:_MAX_PARAMETER_CHARACTERS] for name, value in run.config.items()}, known)
        store = shlex.quote(uri)
        allowed = "MLFLOW_ALLOW_FILE_STORE=true " if uri.startswith("file:") else ""
        return uri if uri.startswith("http") else f"{allowed}mlflow ui --backend-store-uri {store}"

    def _record_recipe(self, recipe: dict[str, str], known: dict[str, str]) -> None:
        """Records fields as parameters, and as tags those that have changed."""
        new = [Param(name, value) for name, value in recipe.items() if name not in known]
        for begin in range(0, len(new), _PARAMETERS_AT_ONCE):
            self._client.log_batch(self._id, params=new[begin : begin + _PARAMETERS_AT_ONCE])
        for name, value in recipe.items():
            if known.get(name, value) != value:
                self._client.set_tag(self._id, f"changed.{name}", value)

    def log(self, values: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        for begin in range(0, len(metrics), _METRICS_AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics[begin : begin + _METRICS_AT_ONCE])

    def flush(self) -> None:
        pass

    def finish(self, finished: bool) -> None:
        self._client.set_terminated(self._id, status="FINISHED" if finished else "KILLED")
