"""FiftyOne, imported late and told first where everything lies.

It reads its variables while it is imported, takes seconds to do so, and waits half a minute for a
database that is not there. So: ping, set the variables, import.
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

from pipeline.errors import ServiceError
from pipeline.mirror.mongod import ping_mongod
from pipeline.settings import Settings


def fiftyone_folder(settings: Settings) -> Path:
    """Folder of everything FiftyOne keeps on this machine, inside the home folder."""
    return settings.home.resolve() / "fiftyone"


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
        # Nothing about the people or the data goes to anyone.
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
    # FiftyOne uses what its own dependencies are about to drop; our callers cannot mend that.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fiftyone
        from fiftyone.core.odm import database

        # It warns at each start of a mongod it will drop one day, such as the spare wheel's.
        logging.getLogger(database.__name__).setLevel(logging.ERROR)
        connected = fiftyone.config.database_uri
        if connected != settings.fiftyone.database_uri:
            raise ServiceError(
                f"This process already uses FiftyOne with {connected}; start a new one "
                f"for {settings.fiftyone.database_uri}."
            )
        try:
            database.get_db_conn()
        except Exception as error:  # FiftyOne raises several kinds for a server it cannot use
            raise ServiceError(
                f"FiftyOne cannot use its database ({error}); run MongoDB 6 or newer."
            ) from error
    return fiftyone
