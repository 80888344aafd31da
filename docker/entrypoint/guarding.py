"""The guard: nginx in front of TorchServe, which lets through predictions of the served models and nothing else."""

import os
import re
import shutil
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from .faults import Fault
from .settings import Settings, is_loopback

TEMPLATE = Path(__file__).resolve().parent.parent / "guard" / "nginx.conf.template"
# RFC 6750: b64token. Short ones can be guessed.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*")
_PLACE = re.compile(r"@([A-Z_]+)@")
_FOLDERS = ("body", "proxy")


def read_tokens(path: Path) -> List[str]:
    """Return the tokens of a file, one a line, ``#`` before comments; raise ``Fault`` over one that is none."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as exc:
        raise Fault(f"TSN_TOKEN_FILE {path} cannot be read by user {os.geteuid()}: {exc}") from exc
    tokens = [line for line in lines if line and not line.startswith("#")]
    for number, token in enumerate(tokens, 1):
        if not _TOKEN.fullmatch(token):
            # Without the token itself: messages end up in logs.
            raise Fault(
                f"token {number} in {path} is no bearer token of 16 or more characters (letters, digits, -._~+/); make "
                "one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
    if not tokens:
        raise Fault(f"TSN_TOKEN_FILE {path} holds no token; write one a line, or say TSN_TOKENS=0 and name no file")
    return tokens


def render_guard(settings: Settings, models: Sequence[str], upstream: Path, tokens: Optional[Sequence[str]]) -> str:
    """Return nginx.conf for the ``models``; ``upstream`` is TorchServe's socket, ``tokens`` None for everybody."""
    names = "|".join(sorted(map(re.escape, set(models))))
    values: Dict[str, str] = {
        # As root, nginx would give its workers to another user, who cannot open TorchServe's socket.
        "USER": "user root;" if os.geteuid() == 0 else "",
        "FOLDER": str(settings.folder / "guard"),
        "UPSTREAM": str(upstream),
        "LISTEN": f"{settings.bind}:{settings.port}{' ssl' if settings.certificate else ''}",
        "MODELS": names,
        "NO_TOKEN": "1" if tokens is None else "0",
        "TOKENS": "\n".join(f'        "~^[Bb]earer {re.escape(token)}$" 1;' for token in tokens or ()),
        "TLS": _render_tls(settings),
        "MAX_REQUEST": str(settings.max_request),
        "CLIENT_SECONDS": str(max(1, int(settings.client_seconds))),
        "ANSWER_SECONDS": str(max(1, int(settings.answer_seconds))),
        "LOG": settings.log if settings.log in ("error", "warn") else "info",
    }
    return _PLACE.sub(lambda found: values[found[1]], TEMPLATE.read_text())


def prepare_guard(settings: Settings, models: Sequence[str], upstream: Path) -> List[str]:
    """Write the guard's files below the folder and return its command; raise ``Fault`` over what it lacks."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None:
        raise Fault("TSN_GUARD=1, and there is no nginx; build the image without GUARD=0")
    if settings.token_file is None and not is_loopback(settings.bind) and settings.tokens is not False:
        raise Fault("TSN_GUARD=1 wants TSN_TOKEN_FILE; or say TSN_TOKENS=0")
    tokens = None if settings.token_file is None else read_tokens(settings.token_file)
    for path in (settings.certificate, settings.key):
        if path is not None and not os.access(str(path), os.R_OK):
            raise Fault(f"{path} cannot be read by user {os.geteuid()}; mount it readable")
    folder = settings.folder / "guard"
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    config = folder / "nginx.conf"
    config.touch(mode=0o600)  # it holds the tokens
    config.chmod(0o600)
    config.write_text(render_guard(settings, models, upstream, tokens))
    return [nginx, "-p", str(folder), "-c", str(config), "-e", "stderr"]


def _render_tls(settings: Settings) -> str:
    if settings.certificate is None:
        return ""
    lines = [f'ssl_certificate "{settings.certificate}";', f'ssl_certificate_key "{settings.key}";']
    lines += ["ssl_protocols TLSv1.2 TLSv1.3;", "ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;"]
    lines += ["ssl_session_cache shared:tls:2m;", "ssl_session_tickets off;"]
    return "\n        ".join(lines)
