"""Names of secrets: what a key, a variable or an option must be called for its value to be left out.

Long words that mean nothing else count anywhere in a name; short ones as a whole part of it, and only where
what stands before them says so.
"""

import functools
import re
from collections.abc import Iterator

HIDDEN = "***"  # what stands for a secret

_ANYWHERE = re.compile(
    r"password|passwd|passphrase|passcode|secret(?!ar|ion|ory)|credential|apikey|accesskey|privatekey|authkey"
    r"|accesstoken|authtoken|bearertoken|connectionstring|connstr|webhookur[li]"
)
_PARTS = {"pwd", "auth", "authorization", "bearer", "cookie", "cookies", "jwt", "creds", "dsn", "psk"}
_LAST = {"otp", "totp", "pin", "passkey", "webhook", "cred", "oauth"}
_OF_KEYS = {  # whose keys are secret, as in api_key; others, as in sort_key, are not
    *("api", "access", "private", "secret", "auth", "account", "encryption", "signing", "ssh", "master", "shared"),
    *("storage", "service", "subscription", "deploy", "license", "wandb", "openai", "aws", "azure", "gcp", "hf"),
    *("hmac", "cert", "certificate", "ssl", "tls", "rsa", "ecdsa", "gpg", "pgp", "cipher", "crypto", "decryption"),
    *("vault", "consumer", "admin", "app", "session", "jwt", "webhook", "fernet", "aes", "pem", "server", "host"),
    *("anthropic", "google", "github", "gitlab", "slack", "stripe", "sendgrid", "huggingface", "comet", "neptune"),
}
_OF_USERS = {  # whose pass or pw is a password
    *("user", "my", "db", "database", "pg", "postgres", "postgresql", "mysql", "sql", "redis", "mongo", "mongodb"),
    *("smtp", "imap", "mail", "email", "root", "admin", "ftp", "sftp", "ssh", "http", "proxy", "login", "ldap"),
    *("wifi", "key", "store", "keystore", "account", "basic", "server", "client", "mqtt", "sudo", "host", "cert"),
}
_OF_TEXT = {  # whose token is a piece of text or of an image
    *("pad", "eos", "bos", "cls", "mask", "unk", "sep", "special", "start", "end", "per", "num", "max", "min", "next"),
    *("class", "dist", "reg", "register", "image", "img", "video", "audio", "visual", "vision", "text", "null", "n"),
    *("blank", "prefix", "suffix", "middle", "eot", "eod", "eom", "sot", "boi", "eoi", "newline", "time", "by", "of"),
    *("first", "last", "prev", "previous", "patch", "query", "word", "prompt", "learnable", "stop", "begin", "target"),
}
_OF_TRAINING = {  # whose pass goes over data
    *("forward", "backward", "first", "second", "third", "last", "low", "high", "band", "all", "single", "multi"),
    *("n", "num", "max", "min", "per", "each", "one", "two", "next", "previous", "full", "final", "warmup", "by"),
}
_COUNTED = ("token", "pat")  # names of secrets that also count something; a secret has more digits
_SMALLEST_SECRET = 1_000_000
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def hides(key: str, value: object) -> bool:
    """Say whether a value is secret by its key; a small number never is where the key may mean a count.

    >>> hides("hf_token", "abc"), hides("token", 8), hides("pin", 8)
    (True, False, True)
    """
    if not is_secret(key):
        return False
    if not isinstance(value, (int, float)) or not key.lower().endswith(_COUNTED):
        return True
    return abs(value) >= _SMALLEST_SECRET


@functools.lru_cache(maxsize=4096)  # the same keys, and the names of the environment, are asked for at each value
def is_secret(key: str) -> bool:
    """Say whether a key is named like a password or token.

    >>> [is_secret(k) for k in ("aws_secret_access_key", "authToken", "api-key", "hf_token", "pad_token", "tokens")]
    [True, True, True, True, False, False]
    """
    words = [word.lower() for word in _WORD.findall(re.sub(r"\[\d+\]$", "", key).rpartition(".")[2])]
    if not words:
        return False
    if any(map(_ANYWHERE.search, _unbroken(words))) or not _PARTS.isdisjoint(words):
        return True
    *before, last = words
    if any(word.endswith("pwd") or _ends(word, "key", _OF_KEYS) for word in words):
        return True
    if any(second in ("key", "keys") and first in _OF_KEYS for first, second in zip(words, words[1:], strict=False)):
        return True
    return last in _LAST or _is_token(last, before) or _is_pass(last, before)


def _unbroken(words: list[str]) -> Iterator[str]:
    """Yield the words, and each two neighbours as one: api_key is apikey."""
    yield from words
    yield from (first + second for first, second in zip(words, words[1:], strict=False))


def _ends(word: str, end: str, starts: set[str]) -> bool:
    return word.endswith(end) and word.removesuffix(end) in starts


def _is_token(last: str, before: list[str]) -> bool:
    if last in ("tokens", "pat"):
        return last == "pat" or bool(before and before[-1] in ("api", "access", "auth", "refresh", "bearer"))
    return last.endswith("token") and _OF_TEXT.isdisjoint([*before, last.removesuffix("token")])


def _is_pass(last: str, before: list[str]) -> bool:
    if last == "pass":
        return _OF_TRAINING.isdisjoint(before)
    if last == "pw":
        return not _OF_USERS.isdisjoint(before)
    return _ends(last, "pass", _OF_USERS) or _ends(last, "pw", _OF_USERS)
