"""timm can be imported in a fresh process, whichever build of torch is installed."""

from __future__ import annotations

import subprocess
import sys


def test_torchvision_and_timm_import_in_a_fresh_process():
    code = (
        "from model.compat import ensure_torchvision as e; e(); e(); import torchvision, timm;"
        "timm.create_model('mobilenetv2_100', pretrained=False)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
