"""No secret stands in any place of a record or of what is printed, and nothing else is left out."""

import json
import linecache
import re
import sqlite3
import sys
from pathlib import Path

import pytest

import gdexp
from gdexp.config import literals, secrets
from gdexp.config.secrets import hide, is_secret

SECRET = re.findall(
    r"\S+",
    """
password passwd db_password dbPassword DB_PASSWORD user.password login-password passwords smtp_pass pass pwd
userPwd passphrase ssh_passphrase keyPassphrase secret secrets client_secret clientSecret CLIENT_SECRET
secret_key secretKey aws_secret_access_key AWS_SECRET_ACCESS_KEY secretAccessKey api_key apiKey APIKey apikey
API_KEY api-key x-api-key xApiKey openai_api_key wandb_api_key wandb_key access_key accessKey
aws_access_key_id private_key privateKey ssh_private_key private-key-pem token auth_token authToken
access_token accessToken refresh_token refreshToken id_token hf_token HF_TOKEN github_token bearer
bearer_token session_token csrfToken auth basic_auth basicAuth auth_header authorization Authorization
proxy-authorization credential credentials aws_credentials gcpCredentials service_account_key accountKey
encryption_key signing_key ssh_key master_key shared_key storage_key subscription_key deploy_key license_key
cookie session_cookie jwt jwtToken data.options[0].password webhook_secret secret_name auth_key
PGPASSWORD dbpassword mypassword pgpassword mysqlpwd MYSQL_PWD userpass dbpass smtppass sharedsecret topsecret
secretaccesskey SecretAccessKey github_pat GITHUB_PAT pat ado-pat hmac_key HMAC_KEY hmackey client_cert_key
ssl_key tlsKey otp user_otp totp pin card_pin connection_string connectionString CONNECTION_STRING dsn DB_DSN
SENTRY_DSN webhook_url SLACK_WEBHOOK webhookUrl hftoken HFTOKEN accesstoken session_key rsa_key pass_word
db_pw userpw creds aws_creds openaikey mysecretkey api_tokens bot_token oauth2 vault_key encryptionkey psk
""",
)

PLAIN = re.findall(
    r"\S+",
    """
lr momentum weight_decay key keys sort_key primary_key foreign_key key_size num_keys keyword monkey tokens
num_tokens max_tokens max_new_tokens n_tokens token_dim tokenizer tokenizer_name pad_token eos_token bos_token
cls_token mask_token unk_token sep_token pad_token_id vocab_size author authors authority passes n_passes
forward_pass band_pass passage passenger compass bypass secretary path seed features hidden dropout optimizer
model data.path url uri host user username login name label target betas eps alpha width depth heads kernel
stride padding bias batch_size epochs keyframe token_count n_keys pass_through hidden_key_size key_dim d_key
pattern spatial patience passthrough pass_rate key_padding_mask kdim tokenization detokenize image_token
class_token start_token stop_token tokens_per_second num_pass backward_pass highpass lowpass forwardpass
hotkey turkey donkey keypoint keypoints n_keypoints key_value query_key authored pinned pin_memory pins spin
options optimum pathway compat patch patches repatriate sort_keys group_key join_key secretion connected
bypass_layer encompass trespass keyword_only pwconv cookiecutter hparams credit creditor pwl session_id
padtoken eostoken n_token max_token min_tokens query_token spinning pinhole passband signature sigma sig
""",
)


def test_names():
    assert [name for name in SECRET if not is_secret(name)] == []
    assert [name for name in PLAIN if is_secret(name)] == []
    assert len(SECRET) + len(PLAIN) > 250


VALUES = {
    "+data.password": "hunter2aa",
    "+data.aws_secret_access_key": "abcd/efgh+ijkl",
    "+data.authToken": "tok-123-456",
    "+data.pwd": "73519284",  # a number
    "+data.deep": "{privateKey: begin-key, inner: [{api-key: deep-key}]}",
    "+data.address": "postgresql://me:pg-pass@host/db",
    "+data.slash": "postgresql://me:sl/pass@host/db",
    "+data.query": "https://host/x?token=query-pass&page=2",
    "+data.plain": "${oc.env:MY_VALUE}",
    "+data.made": "x-${oc.env:MY_VALUE}",
    "+data.same": "from-the-shell",
}
HIDDEN = ["hunter2aa", "abcd/efgh", "tok-123-456", "73519284", "begin-key", "deep-key", "pg-pass", "sl/pass"]
HIDDEN += ["query-pass", "from-environment", "from-the-shell"]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Leave no secret of these tests to what other tests print in this process."""
    monkeypatch.setattr(secrets, "_learnt", set())


@pytest.fixture
def words(stocked, monkeypatch):
    monkeypatch.setenv("MY_VALUE", "from-environment")
    monkeypatch.setenv("THEIR_TOKEN", "from-the-shell")
    Path("my_data.py").write_text(
        "from gdexp.data.synthetic import line\n"
        "def load(**given):\n"
        "    assert (len(given['password']), len(given['plain'])) == (9, 16)\n"
        "    if given.get('fails'):\n"
        "        raise RuntimeError(f'{given}')\n"
        "    return line()\n"
    )
    typed = [f"{key}={value}" if value[0] == "{" else f"{key}='{value}'" for key, value in VALUES.items()]
    return ["data=custom", "data._target_=my_data.load", "trainer.epochs=2", *typed]


def places():
    """Return all that a run leaves behind and that isn't the user's own file."""
    connection = sqlite3.connect("mlflow.db")
    rows = "\n".join(connection.iterdump())
    connection.close()
    return rows.encode() + b"".join(p.read_bytes() for p in Path("mlruns").rglob("*") if p.is_file())


@pytest.mark.parametrize("kind", ["one", "sweep", "failed", "kept"])
def test_no_place_of_a_record_holds_a_secret(words, capfd, kind):
    more = {"sweep": ["optimizer.lr=0.01,0.02"], "failed": ["+data.fails=true"], "kept": ["trainer.checkpoint_every=1"]}
    try:
        gdexp.launch([*words, *more.get(kind, [])], multirun=kind == "sweep")
    except RuntimeError:
        assert kind == "failed"
    assert len(gdexp.runs()) == (2 if kind == "sweep" else 1)
    found = places()
    shown = capfd.readouterr()
    for secret in HIDDEN:
        assert secret.encode() not in found, secret
        assert secret not in shown.out + shown.err, secret
    assert b"${oc.env:MY_VALUE}" in found and b"page=2" in found


def test_a_run_with_short_values_can_be_loaded(stocked, monkeypatch):
    """Values such as 1 or a once blotted out whatever held them, `_target_` among it."""
    for name, value in {"ONE": "1", "LETTER": "a", "RATE": "0.01", "MODEL": "gdexp"}.items():
        monkeypatch.setenv(name, value)
    Path("my_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, **given):\n"
        "        super().__init__(1, 1)\n"
    )
    given = ["+model.a=${oc.env:ONE}", "+model.b=${oc.env:LETTER}", "+model.c=${oc.env:MODEL}", "+model.d=banana"]
    words = ["model=custom", "model._target_=my_net.Net", *given, "optimizer.lr='${oc.decode:${oc.env:RATE}}'"]
    [run] = gdexp.launch([*words, "trainer.epochs=1"]).to_dict("records")
    assert (run["model.d"], run["model._target_"], run["optimizer.lr"]) == ("banana", "my_net.Net", 0.01)
    assert gdexp.load(run["run_id"]).weight.shape == (1, 1)


def test_command_line_of_a_script_is_recorded_without_secrets(stocked, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--api-key", "sesame-open", "--password=hunter2bb", "x"])
    gdexp.launch(["trainer.epochs=1"])
    [path] = Path("mlruns").rglob("environment.json")
    assert json.loads(path.read_text())["command"] == ["train.py", "--api-key", "***", "--password=***", "x"]


def test_messages():
    assert hide("http://a:b@c:1/d and https://x/y@z") == "http://***@c:1/d and https://x/y@z"
    assert hide("http://host:80/a@b") == "http://host:80/a@b"
    assert hide("{'password': 'x y', 'lr': 0.1}") == "{'password': ***, 'lr': 0.1}"
    assert hide("Authorization: Bearer abcdefgh1234").count("abcdefgh") == 0


CODE = '''
TOKEN = "AAA"
TOKEN: str = 'AAA'
HF_TOKEN = f"AAA{x}" + b"AAA"
PASSWORD = (
    "AAA"
    "AAA"
)
USER, PASSWORD = "me", "AAA"
PASSWORD, USER = "AAA", "me"
self.api_key = "AAA" if x else r"AAA"
os.environ["HF_TOKEN"] = "AAA"
os.environ.setdefault("HF_TOKEN", "AAA")
TOKEN = os.environ.get("HF_TOKEN", "AAA")
login(token="AAA", name="kept")
login(
    token="AAA",
    name="kept",
)
d = {"token": "AAA", "name": "kept", "pwd":
    "AAA"}
def f(token: str = "AAA", name="kept"): pass
def g(x, *, secret="AAA"):
    return "kept"
class Token:
    name = "kept"
if token == "AAA":
    print("kept")
x = tokens["kept"]; y = forward_pass("kept")
# TOKEN = "AAA"  it's
# password=AAA
DSN = "host=x password=AAA user=me"
J = '{"token": "AAA", "x": 1}'
URL = "postgres://me:AAA@host/db"
PRIVATE_KEY = """
AAA
"""
K = """-----BEGIN RSA PRIVATE KEY-----
AAA
-----END RSA PRIVATE KEY-----"""
if (token := "AAA"): pass
TOKEN += "AAA"
token = tokenizer(x)  # don't
h = {"Authorization": f"Bearer AAA{x}", "y": "kept"}
TOKEN = \\
    "AAA"
TOKEN = "".join(["AAA", "AAA"])
'''


def test_no_literal_of_a_secrets_name_is_shown_in_code():
    shown = literals.hide(CODE)
    assert "AAA" not in shown and shown.count("kept") == CODE.count("kept")
    compile(shown, "code", "exec")
    assert literals.hide(shown) == shown
    added = "".join(f"+{line}\n" for line in CODE.splitlines())
    assert "AAA" not in hide(literals.hide(added))  # as git's diff has it


NET = """
import os
from torch import nn
PASSWORD = "in-the-text"
class Net(nn.Linear):
    def __init__(self):
        super().__init__(1, 1)
        self.used = MODEL_NAME, BEARER, HEADERS, MADE, PLAIN, SCALE, PASSWORD, ADDRESS
"""
OF_A_SCRIPT = """
MODEL_NAME = os.environ["MY_VALUE"]
BEARER = "Bearer " + os.environ["THEIR_TOKEN"]
HEADERS = {"auth": [os.environ["MY_VALUE"][2:], "in-a-dict"]}
MADE = f"x-{MODEL_NAME}"[:9]
ADDRESS = "postgresql://me:pg-pass@host/db"
PLAIN = "relu"
SCALE = 2.0
"""


@pytest.mark.parametrize("kind", ["script", "notebook"])
def test_values_of_a_script_are_recorded_without_secrets(stocked, monkeypatch, kind):
    monkeypatch.setenv("MY_VALUE", "from-environment")
    monkeypatch.setenv("THEIR_TOKEN", "from-the-shell")
    main = type(sys)("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    values = OF_A_SCRIPT
    if kind == "script":
        text, name = NET + values, str(stocked / "script.py")
        (stocked / "script.py").write_text(text)
        main.__file__ = name
    else:  # whose other cells aren't recorded
        text, name = NET, "<cell 1>"
        values = values.replace('f"x-{MODEL_NAME}"[:9]', '""')
        monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(keepends=True), name))
    exec(compile(text, name, "exec"), vars(main))
    exec(values, vars(main))
    words = ["model=custom", "model._target_=__main__.Net", "trainer.epochs=2", "trainer.checkpoint_every=1"]
    gdexp.launch([*words, "optimizer.lr=0.01,0.02"], multirun=True)
    found = places()
    for secret in ("from-env", "om-environment", "from-the-shell", "in-the-text", "in-a-dict", "pg-pass"):
        assert secret.encode() not in found, secret
    assert b"#   PLAIN = 'relu'" in found and b"#   SCALE = 2.0" in found and b"#   PASSWORD = ***" in found


KEEPING = """
import os
from torch import nn
STATE = {"calls": 0, "api_key": os.environ["MY_VALUE"] + "-1"}
class Net(nn.Linear):
    def __init__(self):
        super().__init__(1, 1)
        self.calls, self.log = 0, []
        self.password = "-".join(("in", "an", "attribute"))
        self.name = os.environ["MY_VALUE"]
        self.headers = {"auth": ["in-a", "-list"], "note": "kept"}
    def forward(self, x):
        self.calls += 1
        self.log.append("called")
        STATE["calls"] += 1
        LATE
        return super().forward(x)
"""


def test_checkpoint_holds_no_secret_and_resumes_with_it(stocked, monkeypatch):
    monkeypatch.setenv("MY_VALUE", "from-environment")
    words = ["model=custom", "model._target_=my_net.Net", "trainer.checkpoint_every=2", "trainer.epochs=4"]
    (stocked / "my_net.py").write_text(KEEPING.replace("LATE", "pass"))
    [run_id] = gdexp.launch(words).run_id
    assert list(stocked.glob("mlruns/*/*/artifacts/checkpoints/*.pt"))
    for secret in (b"from-environment", b"in-an-attribute", b"in-a"):
        assert secret not in places(), secret
    assert b"called" in places()
    from gdexp.resume import resume

    resume([run_id, "trainer.epochs=6"])
    assert sorted(gdexp.runs(curves=True).query("key == 'train_loss'").step)[-1] == 6
    (stocked / "my_net.py").write_text(KEEPING.replace("LATE", "self.api_key = 'sk-' + str(self.calls)"))
    with pytest.raises(ValueError, match=r"`model.api_key` is changed by training .* it is a secret"):
        gdexp.launch(words)


def test_job_is_known_by_the_true_text(stocked):
    for secret in ("first", "other", "other"):
        text = f"from torch import nn\nTOKEN = '{secret}'\nclass Net(nn.Linear):\n"
        (stocked / "my_net.py").write_text(text + "    def __init__(self):\n        super().__init__(1, 1)\n")
        gdexp.launch(["model=custom", "model._target_=my_net.Net", "optimizer.lr=0.01,0.02"], multirun=True)
    assert len(gdexp.runs()) == 4
    assert len({path.read_text() for path in stocked.glob("mlruns/*/*/artifacts/code/my_net.py")}) == 1


def test_current_directory_is_no_secret(stocked, monkeypatch):
    monkeypatch.setenv("PWD", str(stocked))  # though "pwd" is a word for a password
    (stocked / "own.py").write_text("def failing(output, target):\n    raise RuntimeError('of my own')\n")
    with pytest.raises(RuntimeError):
        gdexp.launch(["loss=custom", "loss._target_=own.failing"])
    [run] = gdexp.runs().run_id
    traceback = next(stocked.glob(f"mlruns/*/{run}/artifacts/*traceback*")).read_text()
    assert str(stocked / "own.py") in traceback


ENVIRONMENT = ["data=table", "data.path=${oc.env:MY_FOLDER}/a.csv", "data.target=y", "trainer.epochs=3"]
ENVIRONMENT += ["optimizer.lr=1e-4"]


@pytest.fixture
def from_environment(stocked, monkeypatch):
    """Two folders with data of the same bytes, and a run with those of the first."""
    for name in ("one", "other"):
        (stocked / name).mkdir()
        (stocked / name / "a.csv").write_text("a,y\n" + "".join(f"{i},{i}.5\n" for i in range(20)))
    monkeypatch.setenv("MY_FOLDER", "one")
    return gdexp.launch(ENVIRONMENT).run_id[0]


@pytest.mark.slow
def test_changed_value_of_the_environment_is_refused_by_name(from_environment, gdexp_run, stocked, monkeypatch):
    run_id = from_environment
    assert gdexp_run(run_id, "--verify", module="gdexp.rerun").returncode == 0
    monkeypatch.setenv("MY_FOLDER", "other")
    for module in ("gdexp.rerun", "gdexp.resume"):
        words = ["trainer.epochs=6"] if module == "gdexp.resume" else []
        done = gdexp_run(run_id, *words, module=module)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
        assert "`data.path`" in done.stderr and "MY_FOLDER" in done.stderr and "data.path=…" in done.stderr
    assert gdexp_run(run_id, "data.path=one/a.csv", "--verify", module="gdexp.rerun").returncode == 0
    assert "isn't what it was" in gdexp_run(run_id, "data.path=other/a.csv", module="gdexp.rerun").stderr
    monkeypatch.setenv("MY_FOLDER", "one")
    assert gdexp_run(run_id, "trainer.epochs=6", module="gdexp.resume").returncode == 0


def test_values_of_the_environment_are_settings_that_nobody_can_read(from_environment, stocked, monkeypatch, capsys):
    from gdexp.compare import main

    gdexp.launch([*ENVIRONMENT, "seed=1"])
    monkeypatch.setenv("MY_FOLDER", "other")
    gdexp.launch(ENVIRONMENT)
    monkeypatch.setattr("sys.argv", ["compare", "gdexp"])
    main()
    shown = re.findall(r"\$\{oc\.env:MY_FOLDER\}/a\.csv' #([0-9a-f]{6})", capsys.readouterr().out)
    assert len(set(shown)) == 2
    text = "".join(path.read_text() for path in stocked.glob("mlruns/*/*/artifacts/*.*s*n"))
    assert "other" not in text and "one/a.csv" not in text


def test_model_isnt_loaded_with_another_value_of_the_environment(stocked, monkeypatch):
    """A model of another scale once came out, in silence."""
    Path("my_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, scale):\n"
        "        super().__init__(1, 1)\n"
        "        self.scale = float(scale)\n"
    )
    monkeypatch.setenv("SC", "2.0")
    monkeypatch.setenv("CSV", "a.csv")  # of the data, which aren't loaded
    Path("a.csv").write_text("a,y\n" + "".join(f"{i},{i}.5\n" for i in range(20)))
    words = ["model=custom", "model._target_=my_net.Net", "+model.scale=${oc.env:SC}", "trainer.epochs=1"]
    [run_id] = gdexp.launch([*words, "data=table", "data.path=${oc.env:CSV}", "data.target=y"]).run_id
    monkeypatch.delenv("CSV")
    assert gdexp.load(run_id).scale == 2.0
    monkeypatch.setenv("SC", "3.0")
    with pytest.raises(ValueError, match=r"`model\.scale` comes from .* SC, which isn't what it was") as no:
        gdexp.load(run_id)
    assert "\n" not in str(no.value) and run_id in str(no.value)
    monkeypatch.setenv("SC", "2.0")
    assert gdexp.load(run_id).scale == 2.0


TEXTS = {
    "words": "'host=h password=IN-A-DSN user=kept-u'",
    "json": """'{\\"password\\": \\"IN-JSON\\", \\"name\\": \\"kept-n\\"}'""",
    "cmd": "'--token IN-AN-OPTION --password=IN-A-PAIR --name kept-o'",
    "basic": "'Basic dXNlcjpJTi1CQVNJQw=='",
    "bearer": "'Bearer IN-BEARER-1'",
    "sas": "'https://h/x?page=kept-2&sig=IN-SIG'",
    "aws": "'https://h/x?X-Amz-Signature=IN-AMZ&X-Amz-Date=kept-3'",
    "pem": "'-----BEGIN PRIVATE KEY----- IN-PEM -----END PRIVATE KEY-----'",
    "inside": "'<IN-THE-SHELL>'",
    "list": "['--token IN-A-LIST',{a: 'password=IN-A-NEST'}]",
    "default": "'${oc.env:NO_SUCH_TOKEN,IN-A-DEFAULT}'",
    "prose": "'a basic transformer, the bearer instruments, pass: kept'",
}
NEEDLES = ["IN-A-DSN", "IN-JSON", "IN-AN-OPTION", "IN-A-PAIR", "dXNlcj", "IN-BEARER", "IN-SIG", "IN-AMZ", "IN-PEM"]
NEEDLES += ["IN-THE-SHELL", "IN-A-LIST", "IN-A-NEST", "IN-A-DEFAULT"]


@pytest.mark.parametrize("kind", ["one", "sweep", "failed"])
def test_one_rule_for_texts_holds_in_all_places(stocked, monkeypatch, capfd, kind):
    """What the terminal hid, the record once kept."""
    monkeypatch.setenv("PGPASSWORD", "IN-THE-SHELL")
    Path("my_data.py").write_text(
        "from gdexp.data.synthetic import line\n"
        "def load(**given):\n"
        "    assert len(given['words']) == 36\n"
        "    if given.get('fails'):\n"
        "        raise RuntimeError(f'{given}, ' + given['words'][16:24] + ' was wrong')\n"
        "    return line()\n"
    )
    words = ["data=custom", "data._target_=my_data.load", "trainer.epochs=2"]
    words += [f"+data.{key}={value}" for key, value in TEXTS.items()]
    words += {"sweep": ["optimizer.lr=0.01,0.02"], "failed": ["+data.fails=true"]}.get(kind, [])
    monkeypatch.setattr(sys, "argv", ["gdexp", *words])
    try:
        gdexp.launch(words, multirun=kind == "sweep")
    except RuntimeError:
        assert kind == "failed"
    found, shown = places().decode(errors="replace"), capfd.readouterr()
    for secret in NEEDLES:
        assert secret not in found, secret
        assert secret not in shown.out + shown.err, secret
    for kept in ("kept-u", "kept-n", "kept-o", "kept-2", "kept-3", "a basic transformer, the bearer instruments"):
        assert kept in found, kept


def test_small_numbers_of_a_token_are_counts(stocked):
    Path("my_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, **given):\n"
        "        super().__init__(1, 1)\n"
    )
    words = ["model=custom", "model._target_=my_net.Net", "+model.token=8", "+model.pat=16", "+model.pin=1234"]
    [run] = gdexp.launch([*words, "+model.hf_token=87654321", "trainer.epochs=1"]).to_dict("records")
    assert [run[f"model.{k}"] for k in ("token", "pat", "pin", "hf_token")] == [8, 16, "***", "***"]
    with pytest.raises(ValueError, match=r"`model\.pin` holds a secret that was left out"):
        gdexp.load(run["run_id"])


@pytest.mark.parametrize("swept", [False, True])
def test_number_of_the_environment_is_shown_and_the_line_helps(stocked, monkeypatch, swept):
    monkeypatch.setenv("LR", "0.0523")
    more = ["seed=0,1"] if swept else []
    with pytest.raises(ValueError, match="must be a number, got '0.0523': a value of the environment is text") as said:
        gdexp.launch(["optimizer.lr=${oc.env:LR}", "trainer.epochs=1", *more], multirun=swept)
    [cure] = set(re.findall(r"(optimizer\.lr='\$.*}') reads", str(said.value)))
    table = gdexp.launch([cure, "trainer.epochs=1", *more], multirun=swept)
    assert set(table["optimizer.lr"]) == {0.0523} and "***" not in str(table)
    assert gdexp.load(table.run_id[0])
    monkeypatch.setenv("LR", "true")
    with pytest.raises(ValueError, match="got 'true'"):
        gdexp.launch(["optimizer.lr=${oc.env:LR}", "trainer.epochs=1"])
