"""A cluster that is reached by TLS, with certificates made here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

distributed = pytest.importorskip("distributed", reason="needs the extra 'cluster'")

import dask  # noqa: E402

from napari_mlbseg.config import TrainingConfig  # noqa: E402
from napari_mlbseg.jobs.dask import connection as cluster_connection  # noqa: E402
from napari_mlbseg.jobs.dask import runner as cluster  # noqa: E402
from napari_mlbseg.jobs.local import LocalJob  # noqa: E402
from napari_mlbseg.task import resolve_task  # noqa: E402

from .conftest import STUB, make_volume  # noqa: E402
from .dask_cluster import Cluster, environment_of  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl to make certificates"),
    pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals"),
]

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout")


def certificates(path: Path) -> dict[str, str]:
    """Dask's configuration of a certificate for every role, and the authority that signed it."""
    path.mkdir()
    authority, key, request, signed = (str(path / name) for name in ("ca.pem", "key.pem", "ask.pem", "cert.pem"))
    subject = ("-subj", "/CN=127.0.0.1")
    authority_key = str(path / "ca-key.pem")
    openssl("req", "-x509", *_KEY, authority_key, "-out", authority, "-days", "2", "-subj", "/CN=an authority")
    openssl("req", *_KEY, key, "-out", request, *subject)
    by = ("-CA", authority, "-CAkey", authority_key, "-CAcreateserial")
    openssl("x509", "-req", "-in", request, *by, "-out", signed, "-days", "2")
    config = {"distributed.comm.tls.ca-file": authority}
    for role in ("scheduler", "worker", "client"):
        config |= {f"distributed.comm.tls.{role}.key": key, f"distributed.comm.tls.{role}.cert": signed}
    return config


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def variables(config: dict[str, str]) -> dict[str, str]:
    """A configuration as Dask reads it from the environment."""
    return {"DASK_" + name.upper().replace(".", "__").replace("-", "_"): value for name, value in config.items()}


def test_by_tls_with_the_right_certificates_and_a_sentence_with_wrong_ones(tmp_path, package_path, monkeypatch):
    monkeypatch.setattr(cluster_connection, "_CONNECT_SECONDS", 3.0)
    ours, theirs = certificates(tmp_path / "ours"), certificates(tmp_path / "theirs")
    with dask.config.set(ours):
        secured = Cluster(tmp_path, environment_of(package_path, **variables(ours)), "--protocol", "tls")
        try:
            assert secured.address.startswith("tls://127.0.0.1:")
            secured.script.write_text(STUB + 'folder.append_event(Finished(reason="steps", steps=3, seconds=1))\n')
            secured.add_worker()
            config = TrainingConfig.from_preset("quick", cluster=secured.address)
            job = LocalJob.create(tmp_path / "job", resolve_task([make_volume()], config))
            assert list(cluster.run_on_cluster(job.folder, job.folder.read_request()))[-1].type == "finished"
            with dask.config.set(theirs), pytest.raises(ValueError, match="certificate") as refused:
                cluster_connection.look_at(secured.address)
            with (
                dask.config.set(dict.fromkeys(ours)),
                pytest.raises(ValueError, match="names your certificates"),
            ):
                cluster_connection.look_at(secured.address)
        finally:
            secured.close()
    sentence = str(refused.value)
    assert "do not accept each other's certificates" in sentence
    assert "names the same authority on both" in sentence
    assert "Traceback" not in sentence
