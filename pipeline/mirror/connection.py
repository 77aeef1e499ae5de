"""Imports FiftyOne, after its folders and its database are set in environment variables.

FiftyOne reads its variables when it is imported. The import takes seconds, and waits half a minute
for a missing database. So this module first pings the database, then sets the variables, and then
imports FiftyOne.
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

from pipeline.errors import ServiceError
from pipeline.mirror.mongod import ping_mongod, without_password
from pipeline.settings import Settings


def fiftyone_folder(settings: Settings) -> Path:
    """The folder of all files of FiftyOne on this machine, inside the home folder."""
    return settings.home.resolve() / "fiftyone"


def mask_folder(settings: Settings) -> Path:
    """The folder of the mask files that the mirror writes for FiftyOne."""
    return fiftyone_folder(settings) / "masks"


def fiftyone_environment(settings: Settings) -> dict[str, str]:
    """The variables a process needs before it imports FiftyOne."""
    folder = fiftyone_folder(settings)
    return {
        "FIFTYONE_DATABASE_URI": settings.fiftyone.database_uri,
        "FIFTYONE_DATABASE_DIR": str(folder / "database"),
        "FIFTYONE_DEFAULT_DATASET_DIR": str(folder / "datasets"),
        "FIFTYONE_DATASET_ZOO_DIR": str(folder / "dataset-zoo"),
        "FIFTYONE_MODEL_ZOO_DIR": str(folder / "model-zoo"),
        "FIFTYONE_PLUGINS_DIR": str(folder / "plugins"),
        "FIFTYONE_DEFAULT_APP_ADDRESS": settings.fiftyone.host,
        "FIFTYONE_DEFAULT_APP_PORT": str(settings.fiftyone.port),
        # FiftyOne must not send usage data to anyone.
        "FIFTYONE_DO_NOT_TRACK": "true",
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
    }


def connect_fiftyone(settings: Settings) -> Any:
    """The ``fiftyone`` module, connected to ``settings.fiftyone.database_uri``.

    Raises:
        ServiceError: mongod does not answer, it is too old, or this process already uses FiftyOne
            with another database.
    """
    ping_mongod(settings.fiftyone.database_uri)
    os.environ.update(fiftyone_environment(settings))
    # FiftyOne uses deprecated parts of its own dependencies, and our callers cannot fix that.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fiftyone
        from fiftyone.core.odm import database

        # It warns at each start about an old mongod, such as the spare one, that it still supports.
        logging.getLogger(database.__name__).setLevel(logging.ERROR)
        connected = fiftyone.config.database_uri
        if connected != settings.fiftyone.database_uri:
            others = without_password(connected or "")
            raise ServiceError(
                f"This process already uses FiftyOne with {others}; start a new one for "
                f"{without_password(settings.fiftyone.database_uri)}."
            )
        try:
            database.get_db_conn()
        except Exception as error:  # FiftyOne raises several kinds for a server it cannot use
            raise ServiceError(
                f"FiftyOne cannot use its database ({error}); run MongoDB 6 or newer."
            ) from error
    return fiftyone
