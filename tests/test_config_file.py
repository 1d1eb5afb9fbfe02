"""Which file is read, how strictly, and that the shipped one is the model's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from certstream.config import Config, load_config, shipped_yaml
from certstream.config.environment import OPTIONS
from certstream.config.option import Option, bounds, list_item_of, options_of
from certstream.errors import ConfigError

ROOT = Path(__file__).parent.parent
SHIPPED = (ROOT / "config.yaml").read_text()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = (Path("config.yaml"), Path("config.yml"), tmp_path / "etc.yaml")
    monkeypatch.setattr("certstream.config.file.SEARCHED", found)


def mistake(path: Path | None, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ)
    (line,) = caught.value.mistakes
    assert "\n" not in line
    return line


def test_the_flag_goes_before_the_variable_and_the_variable_before_the_search() -> None:
    for number, name in enumerate(["flag.yaml", "variable.yaml", "config.yaml", "config.yml", "etc.yaml"], start=1):
        Path(name).write_text(f"port: {number}")
    environ = {"CERTSTREAM_CONFIG": "variable.yaml"}
    assert load_config(Path("flag.yaml"), environ).config.port == 1
    assert load_config(None, environ).config.port == 2
    for number, name in enumerate(["config.yaml", "config.yml", "etc.yaml"], start=3):
        loaded = load_config(None, {})
        assert (loaded.config.port, loaded.path and loaded.path.name) == (number, name)
        Path(name).unlink()
    assert load_config(None, {}).path is None


def test_a_named_file_that_does_not_exist_is_a_mistake() -> None:
    assert mistake(Path("no.yaml")) == "no.yaml: cannot be read: No such file or directory"
    assert mistake(None, CERTSTREAM_CONFIG="no.yaml") == "no.yaml: cannot be read: No such file or directory"
    assert mistake(Path()) == ".: cannot be read: Is a directory"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"port: 1\nport: 2\n", "line 2, column 1: key 'port' is given twice"),
        (b"ct_log:\n  batch_size: 1\n  batch_size: 1\n", "line 3, column 3: key 'batch_size' is given twice"),
        (b"custom_logs:\n- {name: a, url: b, name: c}\n", "line 2, column 21: key 'name' is given twice"),
        (b"port: [1\n", "line 2, column 1: "),
        (b"port: 1\n  host: x\n", "line 2, column 7: "),
        (b"\tport: 1\n", "line 1, column 1: "),
        (b"--- {}\n--- {}\n", "line 2, column 1: "),
        (b"port: !!python/object/apply:os.system [x]\n", "could not determine a constructor"),
        (b"port: \xff\n", "not valid YAML"),
        (b"port: \x00\n", "not valid YAML"),
        (b"host: 2024-13-45\n", "not valid YAML: month must be in 1..12"),
        (b"? [a]\n: 1\n", "line 1, column 3: "),
        (b"a: &a [*a]\n", "more than 100000 values"),
        (b"- port\n", "must be a mapping of options, is a list"),
        (b"port\n", "must be a mapping of options, is a str"),
        (b"[" * 5000, "not valid YAML"),
        (b"#" * (1 << 20) + b"\n", "larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_such_yaml_is_one_mistake_that_says_where(content: bytes, said: str) -> None:
    Path("c.yaml").write_bytes(content)
    line = mistake(Path("c.yaml"))
    assert line.startswith("c.yaml: ")
    assert said in line


def test_aliases_that_grow_without_end_are_refused() -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    Path("c.yaml").write_text("\n".join(["l0: &l0 [x]", *levels]))
    assert "more than 100000 values" in mistake(Path("c.yaml"))


def test_anchors_and_merges_are_yaml_and_work() -> None:
    Path("c.yaml").write_text(
        "custom_logs:\n"
        "- &one {name: a, url: 'https://a/', operator: o}\n"
        "- &two {<<: *one, name: b, url: 'https://b/'}\n"
        "- {<<: *two, name: c, url: 'https://c/'}\n"
    )
    logs = load_config(Path("c.yaml"), {}).config.custom_logs
    assert [(log.name, log.url, log.operator) for log in logs] == [
        ("a", "https://a/", "o"),
        ("b", "https://b/", "o"),
        ("c", "https://c/", "o"),
    ]


def test_the_shipped_file_is_the_one_that_the_model_writes() -> None:
    assert shipped_yaml() == SHIPPED, "run `make config`"


def test_the_shipped_file_loads_to_the_defaults_and_names_nothing_without_meaning() -> None:
    loaded = load_config(ROOT / "config.yaml", {})
    assert (loaded.config, loaded.ignored, loaded.warnings) == (Config(), (), ())


def _set_in(document: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict) and name not in OPTIONS:
            flat.update({f"{name}.{inner}": value[inner] for inner in value})
        else:
            flat[name] = value
    return flat


def _dormant_part() -> dict[str, Any]:
    _, _, text = SHIPPED.partition("# Names of certstream-server-rust that have no meaning")
    lines = [line.removeprefix("#").removeprefix(" ") for line in text.splitlines()[1:]]
    document = yaml.safe_load("\n".join(lines))
    assert isinstance(document, dict)
    return document


def test_the_shipped_file_has_every_option_with_its_default() -> None:
    found = {**_set_in(yaml.safe_load(SHIPPED)), **_set_in(_dormant_part())}
    assert set(found) == set(OPTIONS)
    for path, option in OPTIONS.items():
        default = list(option.default) if isinstance(option.default, tuple) else option.default
        assert found[path] == default, path


def test_the_shipped_file_recommends_staging() -> None:
    assert "Recommended" in _comment_above(OPTIONS["backfill.staging_path"])


def _comment_above(option: Option) -> str:
    """Join the comment lines above an option of the shipped file."""
    _, _, name = option.path.rpartition(".")
    section = option.path.removesuffix(name).removesuffix(".")
    part = SHIPPED
    if section:
        pieces = re.findall(rf"^#? ?{section}:\n(?:#? ? +\S.*\n)+", SHIPPED, re.MULTILINE)
        part = next(piece for piece in pieces if re.search(rf"^#? ? +{name}: ", piece, re.MULTILINE))
    comment: list[str] = []
    for line in part.splitlines():
        if re.match(rf"(# )? *{name}: ", line):
            return " ".join(comment)
        text = re.fullmatch(r"(?:# )? *# (.*)", line)
        comment = [*comment, text[1]] if text else []
    raise AssertionError(option.path)


@pytest.mark.parametrize("path", sorted(path for path in OPTIONS if list_item_of(OPTIONS[path].field) is None))
def test_the_shipped_file_says_what_an_option_does_with_its_unit_and_range(path: str) -> None:
    option = OPTIONS[path]
    comment = _comment_above(option)
    assert option.description
    assert option.description in comment
    if option.annotation in (int, float) and option.path != "backfill.max_share":
        low, high = bounds(option.field)
        assert f"[{low} to {high}" in comment
    assert comment.endswith(f"[{option.range}]" if option.range else option.description)


@pytest.mark.parametrize("name", ["custom_logs", "static_logs"])
def test_the_shipped_file_has_an_example_of_a_log_that_loads(name: str, tmp_path: Path) -> None:
    lines = SHIPPED.splitlines()
    first = lines.index(f"# {name}:")
    example = [line.removeprefix("#").removeprefix(" ") for line in lines[first : lines.index(f"{name}: []")]]
    Path("c.yaml").write_text("\n".join(example))
    (log,) = getattr(load_config(Path("c.yaml"), {}).config, name)
    item = list_item_of(OPTIONS[name].field)
    assert item is not None
    given = set(yaml.safe_load("\n".join(example))[name][0])
    assert given == {option.path for option in options_of(item)}
    assert log.info.url.startswith("https://")


def test_a_numbers_range_holds_its_default() -> None:
    for option in OPTIONS.values():
        if option.annotation in (int, float) and option.path != "backfill.max_share" and option.default is not None:
            low, high = bounds(option.field)
            assert low <= option.default <= high, option.path
    assert 0 < Config().backfill.max_share <= 1
