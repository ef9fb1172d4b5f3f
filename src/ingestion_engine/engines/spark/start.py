"""Starts Spark early: the JVM opens in the background while the driver imports, opens its clients and plans.

No slow imports here, so that the JVM can start early.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.runtime.telemetry import get_logger

if TYPE_CHECKING:
    from pyspark import SparkContext

CONF: Final = {
    "spark.speculation": "false",
    "spark.task.maxFailures": "1",
    # Otherwise the status tracker learns of a task that begins within 0.1 s of its stage's submission only by the
    # next heartbeat (10 s): an abort would take the task for a waiting one and cancel it.
    "spark.ui.liveUpdate.period": "0",
    "spark.python.daemon.module": "ingestion_engine.engines.spark.daemon",
}
"""Spark settings that the engine requires; they override the job's own."""

JAVA_HINT: Final = "Install a Java 17 runtime (Debian and Ubuntu: openjdk-17-jre-headless) or set JAVA_HOME."

log = get_logger(__name__)


def open_context() -> SparkContext:
    """Return this process's SparkContext, created on first use (seconds).

    Raises:
        FatalError: "java_missing".
    """
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import PySparkRuntimeError

    conf = SparkConf().setIfMissing("spark.app.name", "ingestion-engine")
    conf.setAll(list(CONF.items()))
    try:
        return SparkContext.getOrCreate(conf)
    except PySparkRuntimeError as error:
        if error.getCondition() != "JAVA_GATEWAY_EXITED":
            raise
        raise FatalError("java_missing", "Spark could not start a Java process.", hint=JAVA_HINT) from error


def warm_up() -> None:
    """Start to open this process's SparkContext. Does not wait."""

    def work() -> None:
        try:
            open_context()
        except BaseException as error:  # the engine will raise it again
            log.warning("cannot open Spark early", extra={"error": f"{type(error).__name__}: {error}"})

    threading.Thread(target=work, name="ingest-warm-up", daemon=True).start()
