"""Arrow columns as a writer gave them, made the columns of the contract."""

from __future__ import annotations

import pyarrow as pa


def fits(have: pa.DataType, want: pa.DataType) -> bool:
    """Whether `conform` can make a `want` of every value of `have`: equal but for unknown fields of records."""
    if pa.types.is_list(want):
        return bool(pa.types.is_list(have)) and fits(have.value_type, want.value_type)
    if pa.types.is_struct(want):
        if not pa.types.is_struct(have):
            return False
        return all(
            have.get_field_index(field.name) >= 0 and fits(have.field(field.name).type, field.type) for field in want
        )
    return bool(have == want or (pa.types.is_timestamp(want) and have == pa.int64()))


def conform(column: pa.Array, want: pa.DataType) -> pa.Array:
    """The column with the contract's type: fields that it does not name are left out, at any depth."""
    if column.type == want:
        return column
    if pa.types.is_list(want):
        items = conform(column.values, want.value_type)
        mask = column.is_null() if column.null_count else None
        return pa.ListArray.from_arrays(column.offsets, items, type=want, mask=mask)
    if pa.types.is_struct(want):
        children = column.flatten()
        parts = [conform(children[column.type.get_field_index(f.name)], f.type) for f in want]
        mask = column.is_null() if column.null_count else None
        return pa.StructArray.from_arrays(parts, fields=list(want), mask=mask)
    return column.cast(want)
