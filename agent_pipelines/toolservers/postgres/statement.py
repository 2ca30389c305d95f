"""What a statement may be, by its syntax tree: the first wall.

Belongs here: an allow-list over every node and field of the tree that PostgreSQL's own grammar
makes of a text, and the names that are used in it. Does not belong here: what those names stand for
in a database (`names`), and any judgement of a text that is not parsed.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from agent_pipelines.errors import UserError

#: Longer texts are no question of a model's, and deep ones cost stack.
_MAX_CHARACTERS = 20_000

#: A schema, where one is written, and a name in it.
Name = tuple[str | None, str]

#: Kinds of nodes a query may be made of. No name of a statement but SelectStmt: so also a WITH
#: cannot write. Nothing that is not here is run, whatever a later grammar adds.
_NODES = """
    A_ArrayExpr A_Const A_Expr A_Indices A_Indirection A_Star BitString Boolean BooleanTest
    BoolExpr CaseExpr CaseWhen CoalesceExpr CollateClause ColumnDef ColumnRef CommonTableExpr
    Float FuncCall GroupingFunc GroupingSet Integer JoinExpr JsonArgument JsonArrayAgg
    JsonArrayConstructor JsonArrayQueryConstructor JsonFuncExpr JsonIsPredicate JsonKeyValue
    JsonObjectAgg JsonObjectConstructor JsonParseExpr JsonScalarExpr JsonSerializeExpr JsonTable
    JsonTableColumn JsonTablePathSpec JsonValueExpr List MinMaxExpr NamedArgExpr NullTest
    RangeFunction RangeSubselect RangeTableSample RangeVar ResTarget RowExpr SelectStmt SortBy
    SQLValueFunction String SubLink TypeCast TypeName WindowDef
"""

#: Their fields. Left out on purpose: intoClause, lockingClause, catalogname (another database),
#: setof and pct_type (%TYPE).
_FIELDS = """
    absent_on_null agg_distinct agg_filter agg_order agg_star agg_within_group alias
    aliascolnames aliasname all arg argname args arrayBounds arraysubselect behavior boolop
    booltesttype boolval bsval coldeflist collname colname colnames coltype columns constructor
    content context_item ctecolcollations ctecolnames ctematerialized ctename ctequery ctes
    cycle_clause cycle_col_list cycle_mark_column cycle_mark_default cycle_mark_value
    cycle_path_column defresult distinctClause elements encoding endOffset exists expr exprs
    fields format format_type frameOptions fromClause func func_variadic funcformat funcname
    functions fval groupClause groupDistinct havingClause indirection inh is_local is_natural
    is_rowsfrom is_slice isNatural isnull item_type items ival join_using_alias jointype key
    kind larg lateral lexpr lidx limitCount limitOffset limitOption location lval method minmax
    name name_location names newvals node nulltesttype on_empty on_error op operName orderClause
    ordinality output over partitionClause passing pathname pathspec pathspec_location plan
    quals query quotes rarg raw_expr recursive refname relation relname relpersistence
    repeatable result returning rexpr row_format schemaname search_breadth_first search_clause
    search_col_list search_seq_column sortby_dir sortby_nulls sortClause startOffset string
    subLinkType subquery subselect sval targetList testexpr typemod typeName typmod typmods uidx
    unique unique_keys useOp usingClause val value valuesLists whereClause windowClause
    withClause wrapper
"""

_ALLOWED = frozenset(_NODES.split()) | frozenset(_FIELDS.split())

#: What a refusal says where there is more to say than the word.
_WHY = {
    "intoClause": ("SELECT INTO creates a table", "leave INTO out: the rows come back to you"),
    "lockingClause": ("FOR UPDATE and FOR SHARE lock rows", "leave it out"),
    "catalogname": ("a table of another database is named", "write schema.table"),
    "ParamRef": ("a parameter such as $1 has no value here", "write the value itself"),
    "XmlExpr": ("XML cannot be made or read here", "use JSON"),
    "XmlSerialize": ("XML cannot be made or read here", "use JSON"),
    "RangeTableFunc": ("XML cannot be made or read here", "use JSON"),
}

#: Types that a value may be cast to without asking the database: PostgreSQL's own, less those whose
#: input looks something up or does more than read a value (reg…, xml).
_TYPES = """
    bit bool box bpchar bytea char cidr circle date datemultirange daterange float4 float8 inet
    int2 int4 int4multirange int4range int8 int8multirange int8range interval json jsonb
    jsonpath line lseg macaddr macaddr8 money name numeric nummultirange numrange oid path point
    polygon record text time timestamp timestamptz timetz tsmultirange tsquery tsrange
    tstzmultirange tstzrange tsvector uuid varbit varchar
"""
_BUILTIN_TYPES = frozenset(_TYPES.split())

#: Looked up by grammar that does not write them: CASE x WHEN, USING, BETWEEN, ORDER BY and others.
_IMPLIED_OPERATORS = ("=", "<>", "<", "<=", ">", ">=")


@dataclass(frozen=True)
class Statement:
    """One query, of allowed shape, and what it calls by name."""

    text: str
    functions: Collection[Name]
    operators: Collection[Name]
    types: Collection[Name]
    #: What may be a column or, in PostgreSQL's other notation, a function of a row.
    attributes: Collection[str]


@dataclass
class _Names:
    functions: set[Name] = field(default_factory=set)
    operators: set[Name] = field(default_factory=set)
    types: set[Name] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)


def read(text: str, schemas: Collection[str]) -> Statement:
    """The one query that ``text`` is.

    Raises:
        UserError: it is anything else, or uses a table outside ``schemas``.
    """
    tree, text = _parsed(text)
    names = _Names()
    names.operators.update((None, name) for name in _IMPLIED_OPERATORS)
    for node in _nodes(tree):
        for word in node:
            if word not in _ALLOWED:
                _refuse(word)
        _note(node, names, schemas)
    return Statement(text, names.functions, names.operators, names.types, names.attributes)


def _parsed(text: str) -> tuple[dict[str, Any], str]:
    import pgparse

    if len(text) > _MAX_CHARACTERS:
        raise UserError(
            f"the statement has {len(text):,} characters",
            remedy=f"use at most {_MAX_CHARACTERS:,}",
        )
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        # To C a text ends there: what is parsed must be what is run.
        raise UserError("the statement holds a character that is none", remedy="leave it out")
    try:
        statements = pgparse.parse(text)
    except pgparse.PGQueryError as error:
        raise UserError(f"PostgreSQL: {error.message}", remedy="correct the statement") from None
    except RecursionError:
        raise UserError("the statement is nested too deep", remedy="make it simpler") from None
    if len(statements) != 1:
        raise UserError(
            f"this is {len(statements)} statements", remedy="send exactly one SELECT at a time"
        )
    [only] = statements
    kind = next(iter(only["stmt"]))
    if kind != "SelectStmt":
        _refuse(kind)
    # Without the semicolon, and what may stand behind it; in bytes.
    start = only.get("stmt_location", 0)
    end = start + only["stmt_len"] if "stmt_len" in only else None
    return only["stmt"], encoded[start:end].decode().strip()


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of the tree; no recursion, since depth is the writer's to choose."""
    left = [tree]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield part
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)


def _note(node: dict[str, Any], names: _Names, schemas: Collection[str]) -> None:
    """The names in one object, known by their fields: objects come with and without their kind."""
    if "funcname" in node:
        names.functions.add(_name(node["funcname"], "function"))
    if "names" in node:
        type_ = _name(node["names"], "type")
        if type_[0] not in (None, "pg_catalog") or type_[1] not in _BUILTIN_TYPES:
            names.types.add(type_)
    if str(node.get("kind", "")).startswith("AEXPR") and "BETWEEN" not in node["kind"]:
        names.operators.add(_name(node["name"], "operator"))
    for operator in ("useOp", "operName"):
        if operator in node:
            names.operators.add(_name(node[operator], "operator"))
    if "relname" in node:
        _check_table(node.get("schemaname"), node["relname"], schemas)
    if "fields" in node and len(node["fields"]) > 1:
        names.attributes.update(_strings(node["fields"][-1:]))
    if "indirection" in node:
        names.attributes.update(_strings(node["indirection"]))
    if "method" in node and _name(node["method"], "method")[1] not in ("bernoulli", "system"):
        raise UserError("that TABLESAMPLE is not known here", remedy="use bernoulli or system")


def _check_table(schema: str | None, table: str, schemas: Collection[str]) -> None:
    # Without a schema it is found in those that are allowed, or among PostgreSQL's own, which all
    # begin alike. Also where a WITH gives that name: how far it reaches is not followed here.
    if schema is not None and schema not in schemas:
        shown = f"{schema}.{table}"
    elif schema is None and table.startswith("pg_"):
        shown = table
    else:
        return
    raise UserError(
        f"{shown} cannot be read here: only tables of {', '.join(schemas)}",
        remedy="call `list_tables` for what there is, `describe_table` for its columns and keys",
    )


def _name(parts: list[Any], what: str) -> Name:
    words = list(_strings(parts))
    if not 1 <= len(words) <= 2 or len(words) != len(parts):
        raise UserError(f"the {what} {'.'.join(words)} is of no known form", remedy="rename it")
    return (words[0] if len(words) == 2 else None, words[-1])


def _strings(parts: list[Any]) -> Iterator[str]:
    for part in parts:
        if "String" in part:
            yield part["String"].get("sval", "")


def _refuse(word: str) -> NoReturn:
    if word in _WHY:
        what, remedy = _WHY[word]
        raise UserError(what, remedy=remedy)
    if word.endswith("Stmt"):
        raise UserError(
            f"{word.removesuffix('Stmt').upper()} is not a query",
            remedy="send one SELECT, WITH … SELECT or VALUES: nothing can be changed through here",
        )
    raise UserError(f"{word} is not among what a query may use here", remedy="write it otherwise")
