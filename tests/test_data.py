"""The door for prices: what passes, what is refused, and whether the refusal says where and why."""
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import portfolio_research.data as data
from portfolio_research.config import DataError
from portfolio_research.data import check_prices, load_episodes, load_prices, sample_prices, to_returns

SAMPLE = Path(data.__file__).parent / "sample"


def table(rows: int = 6, assets: int = 3, seed: int = 0) -> pd.DataFrame:
    values = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.02, (rows, assets)), axis=0))
    return pd.DataFrame(values, index=pd.date_range("2024-01-01", periods=rows, tz="UTC", name="date"),
                        columns=[f"A{i}" for i in range(assets)])


def refused(prices: pd.DataFrame, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        check_prices(prices)
    for word in words:
        assert word in str(caught.value)


def write(tmp_path: Path, text: str, name: str = "p.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def file_refused(path: Path, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        load_prices(path)
    for word in words:
        assert word in str(caught.value)


# ------------------------------------------------------------------ the check
def test_good_prices_come_back_as_the_same_object() -> None:
    prices = table()
    before = prices.copy()
    assert check_prices(prices) is prices
    pd.testing.assert_frame_equal(prices, before)


def test_frames_that_are_no_price_table() -> None:
    prices = table()
    refused(prices.reset_index(drop=True), "UTC", "DatetimeIndex")
    refused(prices.tz_localize(None), "time zone None", "tz_localize")
    refused(prices.tz_convert("Europe/Berlin"), "Europe/Berlin", "tz_convert")
    refused(prices.set_axis(pd.Index([*prices.index[:-1], "later"], dtype=object)), "UTC")
    mixed = pd.Index([*prices.index[:-1], pd.Timestamp("2024-02-01")], dtype=object)
    refused(prices.set_axis(mixed), "one time zone")
    refused(prices.set_axis(pd.DatetimeIndex([*prices.index[:-1], pd.NaT])), "row 5 has no date")
    refused(prices.set_axis(["A0", "A1", "A0"], axis=1), "A0", "more than one column")
    refused(prices[["A0"]], "A0", "at least two assets")
    refused(prices[[]], "no asset")
    refused(prices.iloc[:1], "1 rows")


def test_dates_that_repeat_or_go_back() -> None:
    prices = table()
    refused(prices.iloc[[0, 1, 2, 2, 2, 3]], "2024-01-03", "3 times")
    refused(prices.iloc[[0, 1, 3, 2]], "2024-01-04", "2024-01-03", "sort")
    hourly = prices.set_axis(pd.date_range("2024-01-01", periods=6, freq="h", tz="UTC"))
    refused(hourly.iloc[[0, 2, 1]], "2024-01-01 02:00")


@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf, -np.inf])
def test_impossible_prices_name_asset_and_date(bad: float) -> None:
    prices = table()
    prices.iat[2, 1] = bad
    refused(prices, "A1", "2024-01-03", f"{bad:g}", "positive and finite")
    prices.iat[4, 2] = bad
    refused(prices, "A1", "and 1 more cell")


def test_text_integers_and_empty_columns() -> None:
    refused(table().astype({"A1": object}), "A1", "object")
    refused(table().astype({"A1": str}), "A1")
    refused(table().astype({"A2": int}), "A2", "int64", "astype")
    refused(table().assign(A1=np.nan), "A1", "no price at all")


def test_missing_values() -> None:
    late = table()
    late.iloc[:4, 1] = np.nan
    assert check_prices(late) is late  # listed later than the others
    hole = table()
    hole.iat[3, 0] = np.nan
    refused(hole, "A0", "2024-01-04", "hole")
    ended = table()
    ended.iloc[4:, 2] = np.nan
    refused(ended, "A2", "2024-01-05", "no price from there on")
    assert check_prices(ended, ended=True) is ended


def test_an_end_passes_only_where_asked_for_and_a_hole_never() -> None:
    both = table(8)
    both.iloc[:2, 1] = both.iloc[6:, 1] = np.nan
    refused(both, "A1", "2024-01-07", "no price from there on")
    assert check_prices(both, ended=True) is both
    both.iat[4, 1] = np.nan
    with pytest.raises(DataError, match="A1 on 2024-01-05: .*hole inside"):
        check_prices(both, ended=True)
    with pytest.raises(DataError, match="A0 has no price at all"):
        check_prices(table().assign(A0=np.nan), ended=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(2, 6), st.data())
def test_any_single_bad_cell_is_found_and_named(rows: int, assets: int, draw: st.DataObject) -> None:
    prices = table(rows, assets)
    row, column = draw.draw(st.integers(1, rows - 1)), draw.draw(st.integers(0, assets - 1))
    prices.iat[row, column] = draw.draw(st.sampled_from([0.0, -3.0, np.inf, np.nan]))
    refused(prices, f"A{column}", prices.index[row].strftime("%Y-%m-%d"))


# ------------------------------------------------------------------ files
def test_missing_and_empty_files(tmp_path: Path) -> None:
    file_refused(tmp_path / "none.csv", "none.csv", "check the path")
    file_refused(tmp_path, "is a folder", "name the price file")
    file_refused(write(tmp_path, ""), "empty")
    file_refused(write(tmp_path, "date,A,B\n"), "no row")
    file_refused(write(tmp_path, "date,A,B\n2024-01-01,1,2\n"), "1 rows")


def test_wide_csv_plain_and_gzipped(tmp_path: Path) -> None:
    prices = table()
    prices.to_csv(tmp_path / "p.csv")
    prices.to_csv(tmp_path / "p.csv.gz")
    for name in ("p.csv", "p.csv.gz"):
        pd.testing.assert_frame_equal(load_prices(tmp_path / name), prices, check_freq=False, check_index_type=False,
                                      rtol=1e-15)
    assert load_prices(str(tmp_path / "p.csv")).index.name == "date"


def test_index_written_without_a_name(tmp_path: Path) -> None:
    table().rename_axis(None).to_csv(tmp_path / "p.csv")
    assert list(load_prices(tmp_path / "p.csv").columns) == ["A0", "A1", "A2"]


@pytest.mark.parametrize("asset", ["asset", "coin", "Symbol", "TICKER"])
def test_long_csv(tmp_path: Path, asset: str) -> None:
    prices = table()
    long = prices.rename_axis(columns=asset).stack().rename("Close").reset_index().assign(volume="7")
    long.to_csv(tmp_path / "l.csv", index=False)
    pd.testing.assert_frame_equal(load_prices(tmp_path / "l.csv"), prices, check_freq=False, check_index_type=False)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 20), st.integers(2, 5), st.integers(0, 99))
def test_wide_and_long_load_the_same(tmp_path_factory: pytest.TempPathFactory, rows: int, assets: int,
                                     seed: int) -> None:
    folder, prices = tmp_path_factory.mktemp("p"), table(rows, assets, seed)
    prices.to_csv(folder / "w.csv")
    prices.rename_axis(columns="coin").stack().rename("close").reset_index().to_csv(folder / "l.csv", index=False)
    pd.testing.assert_frame_equal(load_prices(folder / "w.csv"), load_prices(folder / "l.csv"))


def test_long_faults(tmp_path: Path) -> None:
    rows = "date,coin,close\n2024-01-01,A,1\n2024-01-01,B,2\n2024-01-02,A,1.1\n"
    file_refused(write(tmp_path, rows + "2024-01-02,A,1.1\n"), "A on 2024-01-02", "more than once")
    file_refused(write(tmp_path, rows), "B on 2024-01-02", "no price from there on")
    file_refused(write(tmp_path, rows + "2024-01-02,,1\n"), "data row 4", "no asset")
    file_refused(write(tmp_path, rows + "2023-12-31,A,1\n"), "dates of A go back", "2023-12-31")
    file_refused(write(tmp_path, "date,coin,last\n2024-01-01,A,1\n"), "coin", "name the price column close")


def test_wide_faults(tmp_path: Path) -> None:
    ok = "2024-01-01,1,2\n"
    file_refused(write(tmp_path, "date,A,B\n" + ok + "2024-01-02,x,2\n"), "'x'", "A on 2024-01-02", "not a number")
    file_refused(write(tmp_path, "date,A,A\n" + ok), "column A is there twice")
    file_refused(write(tmp_path, "day,A,B\n" + ok), "no column is called", "day, A, B")
    file_refused(write(tmp_path, "date,open,high,low,close\n2024-01-01,1,2,1,2\n"), "bars of one asset")
    file_refused(write(tmp_path, "date,A,B\n" + ok + ok), "2024-01-01", "2 times")
    file_refused(write(tmp_path, "date,A,B\n2024-01-02,1,2\n" + ok), "go back")
    file_refused(write(tmp_path, "date,A,B\n" + ok + "2024-01-02,,2\n"), "A on 2024-01-02")
    file_refused(write(tmp_path, "date,A,B\n" + ok + "2024-01-02,inf,2\n"), "A on 2024-01-02: inf")
    file_refused(write(tmp_path, "date,A\n2024-01-01,1\n2024-01-02,1\n"), "at least two assets")
    file_refused(write(tmp_path, 'date,A,B\n"2024-01-01,1,2\n'), "cannot be read as CSV")
    (tmp_path / "b.csv").write_bytes(b"date,A,B\n2024-01-01,\xff\xfe,2\n")
    file_refused(tmp_path / "b.csv", "UTF-8")
    (tmp_path / "b.csv.gz").write_bytes(b"not gzip")
    file_refused(tmp_path / "b.csv.gz", "cannot be read")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"date,A,B\n" + ok.encode() * 500)[:40])
    file_refused(tmp_path / "c.csv.gz", "cannot be read")


def test_dates_of_files(tmp_path: Path) -> None:
    def dated(*dates: str) -> Path:
        return write(tmp_path, "date,A,B\n" + "".join(f"{d},1,2\n" for d in dates))

    file_refused(dated("01/02/2024", "02/02/2024"), "'01/02/2024'", "data row 1", "ISO 8601")
    file_refused(dated("1700000000000", "1700000000001"), "ISO 8601")
    file_refused(dated("2024-01-01", ""), "data row 2")
    file_refused(dated("2024-13-01", "2024-14-01"), "cannot be read")
    file_refused(dated("2024-01-01T00:00:00Z", "2024-01-02 00:00:00"), "time zone", "'2024-01-02 00:00:00'")
    assert load_prices(dated("2024-01-01T02:00:00+02:00", "2024-01-02T00:00:00Z")).index[0] == pd.Timestamp(
        "2024-01-01", tz="UTC")
    assert str(load_prices(dated("2024-01-01", "2024-01-02")).index.tz) == "UTC"


def test_parquet_needs_its_extra_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    try:
        table().to_parquet(path)
    except ImportError:
        path.write_bytes(b"PAR1")
        file_refused(path, "portfolio_research[parquet]")
    else:
        pd.testing.assert_frame_equal(load_prices(path), table(), check_freq=False, check_index_type=False)
        table().reset_index().to_parquet(path)
        pd.testing.assert_frame_equal(load_prices(path), table(), check_freq=False, check_index_type=False)


# ------------------------------------------------------------------ sample and returns
def test_sample_is_the_one_described() -> None:
    prices = sample_prices()
    note = (SAMPLE / "PROVENANCE.md").read_text()
    assert prices.shape == (8313, 20)
    assert not prices.isna().to_numpy().any()
    assert str(prices.index[0].date()) in note and str(prices.index[-1].date()) in note
    assert " ".join(prices.columns) in note
    assert "BSD 3-Clause" in note and "The skfolio developers" in note
    assert prices.loc["1990-01-02", "BBY"] == 0.144  # three decimals: no rounding to cents
    raw = (SAMPLE / "us_large_caps.csv.gz").read_bytes()
    assert len(raw) < 600_000 and raw[4:8] == bytes(4)  # no time stamp
    text = gzip.decompress(raw).replace(b"date,", b"Date,", 1).replace(b"\n", b"\r\n")  # as the source has it
    assert hashlib.sha256(text).hexdigest() == "5f769c6d7be57f62a4dfd1f553995855462a17c92b21a4af4245439c6115617f"


def test_the_crash_of_march_2020_is_in_the_sample() -> None:
    returns = to_returns(sample_prices())
    assert returns.loc["2020-03-16"].mean() < -0.10


def test_returns_never_fill() -> None:
    prices = table(5, 2)
    prices.iat[2, 0] = np.nan
    returns = to_returns(prices)
    assert len(returns) == 4
    assert returns["A0"].isna().tolist() == [False, True, True, False]
    assert not returns["A1"].isna().any()
    np.testing.assert_allclose(returns["A1"], prices["A1"].to_numpy()[1:] / prices["A1"].to_numpy()[:-1] - 1,
                               rtol=1e-14)


# ------------------------------------------------------------------ episodes
def test_bundled_episodes_are_in_the_sample_and_hurt() -> None:
    episodes, prices = load_episodes(), sample_prices()
    assert list(episodes.columns) == ["name", "start", "end", "note"] and episodes["name"].is_unique
    assert (SAMPLE / "episodes.csv").read_text().count("\n") == len(episodes) + 1
    assert str(episodes["start"].dt.tz) == str(episodes["end"].dt.tz) == "UTC"
    assert (episodes["note"].str.split(":").str[0].str.contains("Shares|Crypto|Banks")).all()
    shares = episodes[episodes["note"].str.startswith("Shares")]
    for row in shares[(shares["end"] < prices.index[-1]) & (shares["start"] > prices.index[0])].itertuples():
        window = prices.loc[row.start:row.end]
        path = (window / window.iloc[0]).mean(axis=1)
        assert 1 - path.iloc[-1] > 0.05 or 1 - (path / path.cummax()).min() > 0.2, row.name


def test_episodes_of_a_file(tmp_path: Path) -> None:
    text = " Name , START,end,other\n ftx , 2022-11-05,2022-11-21,x\n2020,2020-03-05,2020-03-20,\n"
    got = load_episodes(write(tmp_path, text))
    assert got["name"].tolist() == ["ftx", "2020"] and got["note"].tolist() == ["", ""]
    assert got["start"].tolist() == [pd.Timestamp("2022-11-05", tz="UTC"), pd.Timestamp("2020-03-05", tz="UTC")]
    noted = load_episodes(write(tmp_path, "name,start,end,note\na,2020-01-01,2020-01-02,\"x, y\"\nb,2020-01-01,2020-01-02,\n"))
    assert noted["note"].tolist() == ["x, y", ""]


@pytest.mark.parametrize(("text", "words"), [
    ("name,start\na,2020-01-01\n", ["no column end", "name, start"]),
    ("name,start,end\n", ["no row"]),
    ("", ["empty"]),
    ("name,start,end\na,2020-01-01,2020-01-02\nb,2020-13-01,2020-01-02\n", ["start of episode b (data row 2)", "'2020-13-01'"]),
    ("name,start,end\na,01.02.2020,2020-03-01\n", ["start of episode a (data row 1)", "2020-03-12"]),
    ("name,start,end\na,2020-02-30,2020-03-01\n", ["2020-02-30", "no date"]),
    ("name,start,end\na,2020-01-01,\n", ["end of episode a", "empty"]),
    ("name,start,end\na,2020-01-05,2020-01-05\n", ["episode a (data row 1)", "does not end after its start"]),
    ("name,start,end\na,2020-01-05,2020-01-04\n", ["episode a", "does not end after its start"]),
    ("name,start,end\na,2020-01-01,2020-01-02\na ,2020-02-01,2020-02-02\n", ["episode a (data row 2)", "there already"]),
    ("name,start,end\n ,2020-01-01,2020-01-02\n", ["episode without a name (data row 1)", "name is empty"]),
])
def test_wrong_episode_files_name_row_and_remedy(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        load_episodes(write(tmp_path, text))
    assert all(word in str(caught.value) for word in ["p.csv", *words])


def test_no_episode_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no episode file .*nothing.csv"):
        load_episodes(tmp_path / "nothing.csv")
