"""Opening Spark, which is seconds of the JVM's work, while the driver still imports, opens its clients and plans.

Nothing that takes long is imported here, so that it can begin early.
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
    # Else a task that begins within 0.1 s of its stage's submission is not told to the status tracker before the next
    # heartbeat (10 s): an abort would take it for one that waits, and cancel what runs.
    "spark.ui.liveUpdate.period": "0",
    "spark.python.daemon.module": "ingestion_engine.engines.spark.daemon",
}
"""What the engine needs of Spark, whatever the job's own settings say."""

JAVA_HINT: Final = "install a Java 17 runtime (Debian and Ubuntu: openjdk-17-jre-headless) or set JAVA_HOME"

log = get_logger(__name__)


def open_context() -> SparkContext:
    """Return this process's SparkContext, made on first use (seconds).

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
    """Begin to open this process's SparkContext; returns at once."""

    def work() -> None:
        try:
            open_context()
        except BaseException as error:  # whatever it is, the engine meets it again
            log.warning("Spark not opened early", extra={"error": f"{type(error).__name__}: {error}"})

    threading.Thread(target=work, name="ingest-warm-up", daemon=True).start()
