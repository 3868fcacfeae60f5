"""The contracts say what the wire, Arrow and the views agree on."""

import pyarrow as pa
import pytest

from tallystream.errors import ContractError
from tallystream.topics.contracts import arrow_type, contract


def test_orders_need_every_field():
    assert contract("orders").required == tuple(contract("orders").arrow.names)


def test_clicks_need_four_fields():
    assert contract("clicks").required == ("event_id", "event_type", "event_time", "user_id")


def test_times_are_microseconds_without_a_zone():
    assert contract("clicks").arrow.field("event_time").type == pa.timestamp("us")


def test_a_type_without_a_column_is_refused():
    with pytest.raises(ContractError, match="no column type"):
        arrow_type({"type": "fixed", "size": 4, "name": "f"})
