"""Writers with another schema than the contract: what fits is read, what does not has its reason."""

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from messages import T0, changed, click, decoder, order, raw, raw_of, reasons, table, wire

NEW = 77


def test_a_nullable_field_that_the_writer_does_not_have_is_null():
    older = changed("clicks", lambda f: f.remove(next(x for x in f if x["name"] == "brand")))
    out = decoder("clicks", {NEW: older}).decode(raw_of("clicks", [click(4)], schema=older, schema_id=NEW))
    assert out.events.to_pylist()[0]["brand"] is None
    assert out.events.to_pylist()[0]["url"] == click(4)["url"]


def test_a_newer_field_inside_the_items_is_ignored():
    def grow(fields):
        item = next(f for f in fields if f["name"] == "items")["type"]["items"]
        item["fields"].insert(0, {"name": "gift", "type": ["null", "boolean"], "default": None})

    newer = changed("orders", grow)
    events = [order(i) for i in range(9)]
    sent = [{**e, "items": [{**item, "gift": True} for item in e["items"]]} for e in events]
    out = decoder("orders", {NEW: newer}).decode(raw_of("orders", sent, schema=newer, schema_id=NEW))
    assert out.events.equals(table("orders", events))


@pytest.mark.parametrize(
    "field",
    [
        {"name": "f", "type": {"type": "fixed", "name": "Hash", "size": 4}, "value": b"abcd"},
        {"name": "f", "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}, "value": b"\1"},
        {"name": "f", "type": ["null", "bytes"], "value": b"\0\xff"},
        {"name": "f", "type": {"type": "map", "values": "bytes"}, "value": {}},
        {"name": "f", "type": {"type": "string", "logicalType": "uuid"}, "value": "not one"},
        {"name": "f", "type": {"type": "map", "values": "int"}, "value": {"a": 1}},
        {"name": "f", "type": {"type": "map", "values": "null"}, "value": {"a": None}},
        {"name": "f", "type": {"type": "record", "name": "Empty", "fields": []}, "value": {}},
        {"name": "f", "type": ["null", "int", "string", "long"], "value": "x"},
        {"name": "f", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}, "value": "B"},
        {"name": "f", "type": ["null", {"type": "record", "name": "Tree", "fields": [
            {"name": "left", "type": ["null", "Tree"]}]}], "value": {"left": {"left": None}}},
    ],
    ids=["fixed", "decimal", "bytes", "map of bytes", "uuid", "map", "map to null", "empty record", "union", "enum",
         "recursive"],
)  # fmt: skip
def test_whatever_type_a_new_field_has_it_is_ignored(field, capfd):
    newer = changed("clicks", lambda f: f.insert(1, {"name": "f", "type": field["type"]}))
    batch = raw_of("clicks", [click(i, f=field["value"]) for i in range(5)], schema=newer, schema_id=NEW)
    batch.values[2] += b"\0"
    batch.values[3] = batch.values[3][:-2]
    out = decoder("clicks", {NEW: newer}).decode(batch)
    assert out.dead["reason"].to_pylist() == ["trailing_bytes", "truncated"]
    assert out.events.equals(table("clicks", [click(i) for i in (0, 1, 4)]))
    # A panic inside pyruhvro would show here, though it is caught.
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("items", ["null", {"type": "record", "name": "N", "fields": [{"name": "n", "type": "null"}]}])
def test_a_list_whose_items_take_no_bytes_is_refused_unread(items):
    """Nine bytes would claim 2**62 items, and no reader would come to their end."""
    newer = changed("clicks", lambda f: f.insert(0, {"name": "f", "type": {"type": "array", "items": items}}))
    value = b"\0\0\0\0\x4d" + b"\xfe" + b"\xff" * 8 + b"\x01"
    assert reasons("clicks", value, more={NEW: newer}) == ["incompatible_schema"]


@pytest.mark.parametrize("other", ["long", "bytes"], ids=["vectorised", "one by one"])
@pytest.mark.parametrize("kind", ["double", ["null", "string"], {"type": "map", "values": "long"}])
def test_a_type_that_does_not_fit_is_refused_by_both_readers(other, kind):
    def change(fields):
        fields[-1].update(type=kind)
        fields.insert(0, {"name": "f", "type": other})

    wrong = changed("clicks", change)
    price = {"double": 5.0}.get(str(kind), {"a": 1} if isinstance(kind, dict) else "5")
    event = click(0, price_cents=price, f=b"" if other == "bytes" else 0)
    assert reasons("clicks", event, schema=wrong, schema_id=NEW, more={NEW: wrong}) == ["incompatible_schema"]


@pytest.mark.parametrize("other", ["long", "bytes"], ids=["vectorised", "one by one"])
@pytest.mark.parametrize("name", ["event_id", "brand", "stranger"])
def test_text_that_is_no_utf8_is_a_dead_letter(other, name):
    """pyruhvro takes any bytes for text; the warehouse would stop at them."""

    def change(fields):
        fields += [{"name": "stranger", "type": "string"}, {"name": "f", "type": other}]

    newer = changed("clicks", change)
    extra = {"stranger": "well", "f": b"" if other == "bytes" else 0}
    events = [click(i, **extra) | {name: f"~~~{i}"} for i in range(60)]
    batch = raw_of("clicks", events, schema=newer, schema_id=NEW)
    for i in (7, 8, 59):
        batch.values[i] = batch.values[i].replace(b"~~~", b"~\xc3~")
    out = decoder("clicks", {NEW: newer}).decode(batch)
    assert out.dead["reason"].to_pylist() == ["invalid_utf8"] * 3
    assert out.rows.tolist() == [i for i in range(60) if i not in (7, 8, 59)]
    out.events.validate(full=True)


def test_an_int_is_read_as_the_long_it_may_hold():
    """pyruhvro reads an int beyond 32 bits as another number."""
    narrow = changed("clicks", lambda f: f[-1].update(type=["null", "int"]))
    long = changed("clicks", lambda f: None)
    batch = raw_of("clicks", [click(1, price_cents=2**40)], schema=long, schema_id=NEW)
    out = decoder("clicks", {NEW: narrow}).decode(batch)
    assert out.events["price_cents"].to_pylist() == [2**40]


def test_milliseconds_become_microseconds():
    millis = changed("clicks", lambda f: f[2].update(type={"type": "long", "logicalType": "timestamp-millis"}))
    events = [click(0, event_time=T0 // 1000), click(1, event_time=2**62), click(2, event_time=-(2**63))]
    out = decoder("clicks", {NEW: millis}).decode(raw_of("clicks", events, schema=millis, schema_id=NEW))
    assert out.events["event_time"].cast(pa.int64()).to_pylist() == [T0]
    assert out.dead["reason"].to_pylist() == ["time_out_of_range"] * 2


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (changed("clicks", lambda f: f.pop(3)), "missing_field"),
        (changed("clicks", lambda f: f[3].update(type="double")), "incompatible_schema"),
        (changed("clicks", lambda f: f[2].update(type="string")), "incompatible_schema"),
        ({"type": "array", "items": "long"}, "incompatible_schema"),
        ("string", "incompatible_schema"),
        ({"type": "record", "name": "R", "fields": [{"name": "event_id"}]}, "incompatible_schema"),
        (changed("clicks", lambda f: f.append({"name": "x", "type": "Nowhere"})), "incompatible_schema"),
    ],
)
def test_a_writer_schema_that_cannot_give_the_contract(schema, reason):
    assert reasons("clicks", wire("clicks", click(), schema_id=NEW), more={NEW: schema}) == [reason]


def test_a_required_field_that_is_null_is_a_dead_letter():
    loose = changed("clicks", lambda f: f[0].update(type=["null", "string"]))
    assert reasons("clicks", click(event_id=None), schema=loose, schema_id=NEW, more={NEW: loose}) == ["missing_field"]
    assert reasons("clicks", click(), schema=loose, schema_id=NEW, more={NEW: loose}) == []


def test_a_null_inside_the_items_is_a_dead_letter():
    def loosen(fields):
        next(f for f in fields if f["name"] == "items")["type"]["items"]["fields"][0]["type"] = ["null", "string"]

    loose = changed("orders", loosen)
    item = {"product_id": "p", "quantity": 1, "unit_price_cents": 1}
    events = [order(0, items=[item]), order(1, items=[item, item | {"product_id": None}]), order(2, items=[])]
    out = decoder("orders", {NEW: loose}).decode(raw_of("orders", events, schema=loose, schema_id=NEW))
    assert out.rows.tolist() == [0, 2]
    assert out.dead["reason"].to_pylist() == ["missing_field"]


TYPES = [
    ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, [b"\x01", b"\x04"]),
    (["null", "string"], [b"\x01", b"\x03", b"\x01\x02x", b"\x04"]),
    (["null", {"type": "record", "name": "Tree", "namespace": "a.b", "fields": [{"name": "left", "type": ["null", "Tree"]}]}],
     [b"\x02\x01", b"\x02\x02\x01"]),
    ({"type": "map", "values": ["null", "long"]}, [b"\x02\x02k\x01\x00", b"\x01\x08\x02k\x01\x00"]),
    ("long", [b"\x80" * 10 + b"\x00"]),
    ({"type": "array", "items": "string"}, [b"\x82" + b"\x80" * 9 + b"\x00\x02x\x00"]),
]  # fmt: skip


@pytest.mark.parametrize("other", ["long", "bytes"], ids=["vectorised", "one by one"])
@pytest.mark.parametrize(("kind", "broken"), TYPES, ids=["enum", "union", "recursive", "map", "varint", "count"])
def test_what_is_no_avro_is_a_dead_letter_for_both_readers(other, kind, broken):
    """fastavro takes branch -1 for the last one, and reads numbers of any length."""

    def change(fields):
        fields[:0] = [{"name": "stranger", "type": kind}, {"name": "f", "type": other}]

    newer = changed("clicks", change)
    rest = (b"\0" if other == "bytes" else b"\x02") + wire("clicks", click(1))[5:]
    for bad in broken:
        assert reasons("clicks", b"\0\0\0\0\x4d" + bad + rest, key=b"u1", more={NEW: newer}) == ["bad_avro"], bad


@pytest.mark.parametrize("items", ["boolean", "double", {"type": "fixed", "name": "F", "size": 4}, "bytes"])
def test_a_list_that_claims_more_than_there_is_ends_at_once(items):
    newer = changed("clicks", lambda f: f.insert(0, {"name": "f", "type": {"type": "array", "items": items}}))
    newer["fields"].insert(0, {"name": "g", "type": "bytes"})
    value = b"\0\0\0\0\x4d" + b"\0" + b"\xfe" + b"\xff" * 8 + b"\x01" + b"\0" * 20
    assert reasons("clicks", value, more={NEW: newer}) == ["truncated"]


def nested(name: str, inner: object) -> dict[str, object]:
    return {"name": name.lower(), "type": {"type": "record", "name": name, "fields": inner}}


def node(next_type: object) -> dict[str, object]:
    return nested("Node", [{"name": "next", "type": next_type}])


ENDLESS = {
    "a type that holds itself": ([node("Node")], b""),
    "twice the last": (
        [nested("A0", []), *(nested(f"A{i}", [{"name": n, "type": f"A{i - 1}"} for n in "xy"]) for i in range(1, 40))],
        b"",
    ),
    "a list of a named type without bytes": (
        [nested("Empty", []), {"name": "l", "type": {"type": "array", "items": "Empty"}}],
        b"\xfe" + b"\xff" * 8 + b"\x01",
    ),
    "a list of records with a part without bytes": (
        [{"name": "l", "type": {"type": "array", "items": nested("R", [
            {"name": "b", "type": "boolean"}, {"name": "n", "type": {"type": "fixed", "name": "F", "size": 0}}])["type"]}}],
        b"\x02\x01\0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDLESS)
def test_a_schema_whose_data_could_not_be_read_to_an_end_is_refused(case):
    fields, more = ENDLESS[case]
    newer = changed("clicks", lambda f: f.extend(fields))
    value = wire("clicks", click(0), schema_id=NEW) + more
    assert reasons("clicks", value, more={NEW: newer})[0] in ("incompatible_schema", "bad_avro")


@pytest.mark.parametrize("deep", [3, 10_000, 1_000_000])
def test_a_datum_as_deep_as_you_like_kills_no_process(deep):
    """Read by compiled code, the deepest ended it with a segmentation fault, and each start after it."""
    newer = changed("clicks", lambda f: f.append(node(["null", "Node"])))
    value = wire("clicks", click(0), schema_id=NEW) + b"\x02" * deep + b"\0"
    assert reasons("clicks", value, more={NEW: newer}) == ([] if deep == 3 else ["bad_avro"])


kinds = st.recursive(
    st.sampled_from(
        ["null", "boolean", "int", "long", "float", "double", "bytes", "string", "Node", "Nowhere", "", 5, None, {}]
    )
    | st.sampled_from(["a", "event_id"]).map(lambda n: {"type": "fixed", "name": n, "size": 0})
    | st.just({"type": "enum", "name": "E", "symbols": ["A"]})
    | st.sampled_from(["decimal", "timestamp-millis", "uuid", "nothing"]).map(
        lambda n: {"type": "long", "logicalType": n}
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        inner.map(lambda t: {"type": "array", "items": t}),
        inner.map(lambda t: {"type": "map", "values": t}),
        inner.map(lambda t: {"type": t}),
        st.lists(st.tuples(st.sampled_from(["x", "y", "event_id"]), inner), max_size=3).map(
            lambda fields: {"type": "record", "name": "Node", "fields": [{"name": n, "type": t} for n, t in fields]}
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.integers(0, 10), kind=kinds, tail=st.binary(max_size=12))
def test_whatever_is_called_a_schema_each_message_has_its_account(place, kind, tail):
    odd = changed(
        "clicks", lambda f: f.insert(place, {"name": "odd", "type": kind}) if place < 10 else f[3].update(type=kind)
    )
    values = [wire("clicks", click(i), schema_id=NEW) + tail for i in range(3)]
    out = decoder("clicks", {NEW: odd}).decode(raw("clicks", values, [b"u0", b"u1", b"u2"]))
    assert out.events.num_rows + out.dead.num_rows == 3
    out.events.validate(full=True)
