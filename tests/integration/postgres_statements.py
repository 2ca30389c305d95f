"""What is tried on the PostgreSQL tool server: attacks, and questions that analysts ask.

Belongs here: statements as data, and the database that they are about. Does not belong here: what
must become of them (`test_tool_postgres.py`).
"""

from dataclasses import dataclass
from typing import Literal

#: Beside the tables, what a hostile neighbour may have put into a schema that is searched: things
#: of the same names as PostgreSQL's own that fit an argument better, all of which try to write.
DATABASE = """
CREATE TYPE public.mood AS ENUM ('calm', 'angry');
CREATE TABLE public.customers (
  id int PRIMARY KEY, name varchar(80) NOT NULL UNIQUE, country text NOT NULL,
  since date NOT NULL, mood public.mood NOT NULL, secret text);
COMMENT ON TABLE public.customers IS 'Who buys';
COMMENT ON COLUMN public.customers.since IS 'Day of the first order';
CREATE TABLE public.orders (
  id bigint PRIMARY KEY, customer_id int NOT NULL REFERENCES public.customers,
  at timestamptz NOT NULL, total numeric(10, 2) NOT NULL, details jsonb NOT NULL, tags text[]);
CREATE TABLE public.notes (
  id int PRIMARY KEY, body text NOT NULL,
  words tsvector GENERATED ALWAYS AS (to_tsvector('english', body)) STORED);
CREATE TABLE public.loot (what text);
CREATE TABLE public.wide (data text, raw bytea);
CREATE VIEW public.order_days AS
  SELECT at::date AS day, sum(total) AS total, count(*) AS orders FROM public.orders GROUP BY 1;
CREATE SEQUENCE public.made;
CREATE EXTENSION vector SCHEMA public;
CREATE TABLE public.places (id int PRIMARY KEY, embedding public.vector(3));
INSERT INTO public.customers
  SELECT n, 'customer ' || n, (ARRAY['DE', 'FR', 'US'])[1 + n % 3], date '2020-01-01' + n,
         CASE WHEN n % 4 = 0 THEN 'angry' ELSE 'calm' END::public.mood, 'sesame ' || n
  FROM generate_series(1, 60) n;
INSERT INTO public.orders
  SELECT n, 1 + n % 60, timestamptz '2026-01-01 00:00Z' + n * interval '7 hours', n * 1.5,
         jsonb_build_object('items', jsonb_build_array(jsonb_build_object('sku', 'a' || n % 7,
           'count', n % 5)), 'paid', n % 2 = 0), ARRAY['t' || n % 3, 'all']
  FROM generate_series(1, 600) n;
INSERT INTO public.notes (id, body) VALUES
  (1, 'The pump was replaced in March'), (2, 'Pumps fail when the filter is old');
INSERT INTO public.wide VALUES (repeat('wide ', 100000), decode(repeat('ff', 50000), 'hex'));
INSERT INTO public.places VALUES (1, '[1,2,3]'), (2, '[3,2,1]');
SELECT lo_from_bytea(4242, 'a large object'::bytea);
CREATE SCHEMA private;
CREATE TABLE private.salaries (name text, salary int);
INSERT INTO private.salaries VALUES ('boss', 1000000);

CREATE SCHEMA shared;
CREATE FUNCTION shared.take(what text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
  BEGIN
    PERFORM set_config('application_name', 'taken', false), pg_advisory_lock(77);
    PERFORM pg_notify('taken', what);
    INSERT INTO public.loot VALUES (what);
    RETURN what;
  END $$;
CREATE FUNCTION shared.lower(varchar) RETURNS text LANGUAGE sql AS $$ SELECT shared.take($1) $$;
CREATE FUNCTION shared.pure(text) RETURNS text LANGUAGE sql IMMUTABLE AS
  $$ SELECT shared.take($1) $$;
CREATE FUNCTION shared.nick(public.customers) RETURNS text LANGUAGE sql AS
  $$ SELECT shared.take($1.name) $$;
CREATE FUNCTION shared.near(varchar, varchar) RETURNS boolean LANGUAGE sql AS
  $$ SELECT shared.take($1) IS NOT NULL $$;
CREATE OPERATOR shared.|~| (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = shared.near);
CREATE FUNCTION shared.higher(varchar, varchar) RETURNS boolean LANGUAGE sql AS
  $$ SELECT shared.take($1) IS NOT NULL $$;
CREATE OPERATOR shared.^@ (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = shared.higher);
CREATE TYPE shared.level AS ENUM ('low', 'high');
CREATE FUNCTION shared.to_level(text) RETURNS shared.level LANGUAGE sql AS
  $$ SELECT CASE WHEN shared.take($1) IS NULL THEN 'low' ELSE 'high' END::shared.level $$;
CREATE CAST (text AS shared.level) WITH FUNCTION shared.to_level(text);
CREATE DOMAIN shared.checked AS text CHECK (shared.take(VALUE) IS NOT NULL);
CREATE TYPE shared.pair AS (a int, b int);
CREATE FUNCTION shared.pair_text(shared.pair) RETURNS text LANGUAGE sql AS
  $$ SELECT shared.take('pair') $$;
CREATE CAST (shared.pair AS text) WITH FUNCTION shared.pair_text(shared.pair) AS ASSIGNMENT;
CREATE TABLE shared.pairs (pair shared.pair);
INSERT INTO shared.pairs VALUES (ROW(1, 2));
CREATE VIEW shared.trap AS SELECT shared.take('view') AS got;
CREATE VIEW shared.counter AS SELECT nextval('public.made') AS number;
CREATE VIEW shared.locks AS SELECT pg_advisory_lock(78) IS NULL AS locked,
  pg_notify('v', 'x')::text AS told;
CREATE TABLE shared.guarded (id int);
INSERT INTO shared.guarded VALUES (1);
ALTER TABLE shared.guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY peek ON shared.guarded USING (shared.take('policy') IS NOT NULL);

CREATE ROLE agent_reader LOGIN PASSWORD 'sesame-open';
GRANT USAGE ON SCHEMA public, shared TO agent_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public, shared TO agent_reader;
GRANT SELECT ON SEQUENCE public.made TO agent_reader;
"""

#: What it must come to: refused by the check before anything runs; or run, maybe in vain, without
#: a trace, and in bounded time.
Fate = Literal["refused", "harmless"]


@dataclass(frozen=True)
class Attack:
    """One statement. ``only_check``: what no wall but the check of the statement keeps out."""

    family: str
    sql: str
    fate: Fate = "refused"
    only_check: str | None = None


def _attacks() -> list[Attack]:
    attacks: list[Attack] = []
    for family, statements in REFUSED.items():
        attacks += [Attack(family, sql) for sql in statements]
    for family, statements in HARMLESS.items():
        attacks += [Attack(family, sql, "harmless") for sql in statements]
    attacks += [Attack("only the check", sql, "refused", why) for sql, why in ONLY_CHECK]
    return attacks


REFUSED = {
    "plain writes": [
        "INSERT INTO loot VALUES ('x')",
        "UPDATE customers SET name = 'x'",
        "DELETE FROM orders",
        "TRUNCATE orders",
        "MERGE INTO loot USING customers ON false WHEN NOT MATCHED THEN INSERT VALUES ('x')",
        "INSERT INTO loot VALUES ('x') RETURNING what",
        "CREATE TABLE t (a int)",
        "CREATE TEMP TABLE t (a int)",
        "CREATE TABLE t AS SELECT 1",
        "CREATE MATERIALIZED VIEW m AS SELECT 1",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DROP TABLE orders",
        "ALTER TABLE orders ADD COLUMN x int",
        "COMMENT ON TABLE orders IS 'x'",
        "GRANT ALL ON orders TO PUBLIC",
        "REFRESH MATERIALIZED VIEW m",
        "CREATE EXTENSION dblink",
        "ALTER SYSTEM SET work_mem = '1GB'",
        "VACUUM",
        "CHECKPOINT",
        "REINDEX TABLE orders",
    ],
    "end of the transaction": [
        "COMMIT",
        "ROLLBACK",
        "END",
        "ABORT",
        "BEGIN",
        "SAVEPOINT a",
        "PREPARE TRANSACTION 'x'",
        "COMMIT; INSERT INTO loot VALUES ('x')",
        "SELECT 1; COMMIT; DROP TABLE orders",
        "COMMIT AND CHAIN",
        "START TRANSACTION READ WRITE",
        "SET TRANSACTION READ WRITE",
    ],
    "many statements": [
        "SELECT 1; SELECT 2",
        "SELECT 1;; DELETE FROM orders",
        "; DELETE FROM orders",
        "SELECT 1) AS query; DELETE FROM orders; SELECT * FROM (SELECT 1",
        "SELECT 1\n) AS query LIMIT 0; COMMIT; INSERT INTO loot VALUES ('x') --",
        "SELECT 1) UNION SELECT * FROM (DELETE FROM orders RETURNING 1",
        "SELECT 1) q(c0); SELECT set_config('role', 'postgres', false); --",
        "",
        "-- only a comment",
        ";",
    ],
    "comments": [
        "/* SELECT */ DELETE FROM orders",
        "SELECT 1 /* ; */; DELETE FROM orders",
        "--\nDELETE FROM orders",
        "/* /* nested */ SELECT 1 */ DROP TABLE orders",
        "SELECT 1 -- \r; DELETE FROM orders\n; DELETE FROM orders",
        "SELECT 1 /*",
        "SELECT $$ ; $$; DROP TABLE orders",
        "SELECT $a$ $$ ; $a$; DROP TABLE orders",
        "SELECT 'a\\'; DROP TABLE orders; --'; DROP TABLE orders",
        "SELECT E'a\\'b'; DROP TABLE orders",
    ],
    "Unicode": [
        "SELECT 1\uff1b DROP TABLE orders",
        "\u200bDELETE FROM orders",
        "SELECT U&'\\0027'; DROP TABLE orders",
        "SELECT U&\"\\0070g_read_file\"('/etc/passwd')",
        "SELECT U&\"d!0061t!0061\" UESCAPE '!' ; DROP TABLE orders",
        "SELECT 1 \u2028; DROP TABLE orders",
        "SELECT 1\x00; DROP TABLE orders",
        "SELECT '\ud800'",
        "DELETE\u00a0FROM orders",
        "\ufeffDROP TABLE orders",
        'SELECT "pg_catalog"."pg_sleep"(1)',
        "SELECT PG_SLEEP(1)",
    ],
    "writes within queries": [
        "WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone",
        "WITH x AS (INSERT INTO loot VALUES ('x') RETURNING *) SELECT * FROM x",
        "WITH x AS (UPDATE customers SET name = 'x' RETURNING *) SELECT 1",
        "WITH a AS (WITH b AS (DELETE FROM orders RETURNING 1) SELECT * FROM b) SELECT * FROM a",
        "SELECT * FROM (WITH x AS (DELETE FROM orders RETURNING *) SELECT * FROM x) y",
        "SELECT (WITH x AS (DELETE FROM orders RETURNING 1) SELECT count(*) FROM x)",
        "WITH RECURSIVE x AS (DELETE FROM orders RETURNING 1) TABLE x",
        "WITH x AS (SELECT 1) INSERT INTO loot SELECT 'x' FROM x",
        "WITH x AS (MERGE INTO loot USING customers ON false WHEN NOT MATCHED THEN "
        "INSERT VALUES ('x') RETURNING *) SELECT * FROM x",
        "SELECT * INTO stolen FROM customers",
        "SELECT 1 AS a INTO TEMP stolen",
        "SELECT * INTO UNLOGGED stolen FROM customers UNION SELECT * FROM customers",
    ],
    "locks": [
        "SELECT * FROM orders FOR UPDATE",
        "SELECT * FROM orders FOR KEY SHARE SKIP LOCKED",
        "SELECT * FROM (SELECT * FROM orders FOR UPDATE) q",
        "LOCK TABLE orders",
        "LOCK TABLE orders IN ACCESS SHARE MODE",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_lock_shared(1)",
        "SELECT pg_catalog.pg_advisory_xact_lock(1, 2)",
    ],
    "files and programs": [
        "COPY customers TO '{file}'",
        "COPY customers TO PROGRAM 'cat > {file}'",
        "COPY loot FROM '/etc/passwd'",
        "COPY loot FROM PROGRAM 'id'",
        "COPY (SELECT 1) TO STDOUT",
        "COPY (DELETE FROM orders RETURNING *) TO STDOUT",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_read_binary_file('postgresql.conf')",
        "SELECT * FROM pg_ls_dir('/')",
        "SELECT pg_stat_file('/etc/passwd')",
        "SELECT pg_file_write('{file}', 'x', false)",
        "SELECT * FROM pg_current_logfile()",
        "SELECT * FROM pg_ls_waldir()",
        "SELECT * FROM pg_ls_tmpdir()",
        "LOAD '/tmp/evil.so'",
        "SELECT pg_tablespace_location(1663)",
    ],
    "large objects": [
        "SELECT lo_import('/etc/passwd')",
        "SELECT lo_export(4242, '{file}')",
        "SELECT lo_unlink(4242)",
        "SELECT lo_put(4242, 0, 'x')",
        "SELECT lo_open(4242, 131072)",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT lo_create(4243)",
        "SELECT lo_creat(-1)",
        "SELECT lowrite(lo_open(4242, 131072), 'x')",
        "SELECT lo_truncate(0, 0)",
        "SELECT lo_get(4242)",
        "SELECT * FROM pg_largeobject",
    ],
    "other connections": [
        "SELECT * FROM dblink('dbname=postgres', 'DELETE FROM orders') AS t(a int)",
        "SELECT dblink_exec('dbname=postgres', 'DROP TABLE orders')",
        "SELECT dblink_connect('x', 'dbname=postgres')",
        "SELECT * FROM other.public.customers",
        "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw",
        "IMPORT FOREIGN SCHEMA public FROM SERVER s INTO public",
        "CREATE SUBSCRIPTION s CONNECTION 'dbname=x' PUBLICATION p",
    ],
    "code": [
        "DO $$ BEGIN DELETE FROM orders; END $$",
        "DO LANGUAGE plpgsql 'BEGIN COMMIT; END'",
        "CALL something()",
        "EXECUTE stolen",
        "PREPARE stolen AS DELETE FROM orders",
        "DEALLOCATE ALL",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "FETCH ALL FROM page",
        "CLOSE page",
        "CLOSE ALL",
        "MOVE 1 IN page",
        "EXPLAIN ANALYZE DELETE FROM orders",
        "EXPLAIN SELECT 1",
        "EXPLAIN (ANALYZE) INSERT INTO loot VALUES ('x')",
        "ANALYZE DELETE FROM orders",
        "ANALYZE",
    ],
    "settings and roles": [
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "RESET ROLE",
        "RESET ALL",
        "DISCARD ALL",
        "SET statement_timeout = 0",
        "SET default_transaction_read_only = off",
        "SHOW ALL",
        "SELECT set_config('statement_timeout', '0', false), pg_sleep(60)",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "SELECT set_config('role', 'postgres', false)",
        "SELECT set_config('search_path', 'private', false)",
        "SELECT current_setting('data_directory')",
        "UPDATE pg_settings SET setting = '0' WHERE name = 'statement_timeout'",
        "SELECT * FROM pg_settings",
        "CREATE ROLE evil SUPERUSER",
        "ALTER ROLE agent_reader SUPERUSER",
        "SECURITY LABEL ON TABLE orders IS 'x'",
    ],
    "messages": [
        "LISTEN taken",
        "NOTIFY taken, 'x'",
        "UNLISTEN *",
        "SELECT pg_notify('taken', 'x')",
        "SELECT pg_listening_channels()",
    ],
    "sequences": [
        "SELECT nextval('made')",
        "SELECT setval('made', 99)",
        "SELECT currval('made'), lastval()",
        "SELECT nextval('made'::regclass) FROM generate_series(1, 9)",
    ],
    "the server": [
        "SELECT pg_reload_conf()",
        "SELECT pg_rotate_logfile()",
        "SELECT pg_switch_wal()",
        "SELECT pg_create_restore_point('x')",
        "SELECT pg_create_physical_replication_slot('x')",
        "SELECT pg_promote()",
        "SELECT pg_stat_reset()",
        "SELECT pg_stat_reset_shared('wal')",
        "SELECT pg_export_snapshot()",
        "SELECT pg_import_system_collations('public')",
        "SELECT pg_replication_origin_create('x')",
        "SELECT pg_stat_clear_snapshot()",
        "SELECT * FROM pg_stat_activity",
        "SELECT query FROM pg_stat_get_activity(NULL)",
        "SELECT inet_server_addr()",
    ],
    "a query in a text": [
        "SELECT query_to_xml('DELETE FROM orders RETURNING 1', true, true, '')",
        "SELECT query_to_xml('SELECT * FROM private.salaries', true, true, '')",
        "SELECT table_to_xml('customers', true, true, '')",
        "SELECT database_to_xml(true, true, '')",
        "SELECT schema_to_xml('public', true, true, '')",
        "SELECT cursor_to_xml('page', 1, true, true, '')",
        "SELECT query_to_xmlschema('SELECT 1', true, true, '')",
        "SELECT * FROM ts_stat('SELECT words FROM notes')",
        "SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, ''b''::tsquery')",
        "SELECT xpath('/a', '<a/>')",
        "SELECT xmlparse(DOCUMENT '<a/>')",
        "SELECT xmlelement(name x)",
        "SELECT '<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]><a>&b;</a>'::xml",
        "SELECT * FROM xmltable('/a' PASSING '<a/>' COLUMNS b int)",
        "SELECT xml_is_well_formed('<a/>')",
    ],
    "casts that look things up": [
        "SELECT 'pg_authid'::regclass",
        "SELECT 'pg_sleep(double precision)'::regprocedure",
        "SELECT CAST('postgres' AS regrole)",
        "SELECT 'private'::pg_catalog.regnamespace::oid",
        "SELECT regclass('customers')",
        "SELECT to_regclass('private.salaries')",
        "SELECT '1'::shared.level",
        "SELECT name::text::shared.level FROM customers",
        "SELECT 'x'::shared.checked",
        "SELECT CAST('x' AS checked)",
        "SELECT ROW(1, 2)::shared.pair",
        "SELECT 'x'::customers",
        "SELECT '{pg_sleep}'::regproc[]",
    ],
    "names that are somebody else's": [
        "SELECT lower(name) FROM customers",
        "SELECT shared.lower(name) FROM customers",
        "SELECT shared.take('x')",
        "SELECT take('x')",
        "SELECT pure('x')",
        "SELECT customers.nick FROM customers",
        "SELECT (c).nick FROM customers c",
        "SELECT (SELECT c FROM customers c LIMIT 1).nick",
        "SELECT nick(c) FROM customers c",
        "SELECT name |~| name FROM customers",
        "SELECT name OPERATOR(shared.|~|) name FROM customers",
        "SELECT name ^@ name FROM customers",
        "SELECT name ^@ ANY (ARRAY['a'::varchar]) FROM customers",
        "SELECT 1 FROM customers WHERE name IN (SELECT name FROM customers ORDER BY 1 USING |~|)",
        "SELECT * FROM customers TABLESAMPLE evil(1)",
        "SELECT * FROM private.salaries",
        "SELECT (SELECT salary FROM private.salaries)",
        "SELECT * FROM pg_authid",
        "SELECT * FROM pg_catalog.pg_shadow",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM pg_toast.pg_toast_1262",
        "WITH pg_authid AS (SELECT 1) SELECT * FROM pg_authid",
        "SELECT * FROM (WITH pg_shadow AS (SELECT 1) SELECT 1) q, pg_shadow",
        "SELECT $1",
        "SELECT has_table_privilege('private.salaries', 'SELECT')",
        "SELECT pg_get_viewdef('order_days'::text)",
        "SELECT boolin('x'), record_out(ROW(1))",
        "SELECT unknown_function(1)",
    ],
    "too much to parse": [
        "SELECT " + "+".join("1" * 5_000),
        "SELECT " + "NOT " * 4_900 + "true",
        "SELECT " + "1," * 20_000 + "1",
        "SELECT * FROM " + "(SELECT * FROM " * 1_000 + "orders" + ") q" * 1_000,
        "SELECT 1" + "::int" * 3_900,
    ],
    "time": [
        "SELECT pg_sleep(60)",
        "SELECT pg_sleep_for('1 minute')",
        "SELECT pg_sleep_until('2999-01-01')",
        "SELECT count(*) FROM customers, LATERAL (SELECT pg_sleep(1)) q",
        "SELECT CASE WHEN id = 1 THEN pg_catalog.pg_sleep(9) END FROM customers",
    ],
}

HARMLESS = {
    "time": [
        "SELECT count(*) FROM orders a, orders b, orders c, orders d",
        "SELECT * FROM generate_series(1, 1000000000000)",
        "SELECT generate_series(1, 1000000000000)",
        "SELECT count(*) FROM generate_series(1, 1000000000000)",
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n, generate_series(1, 9)) "
        "TABLE n",
        "SELECT repeat('a', 4000) ~ '(a*)*(a*)*(a*)*b(a*)*$'",
        "SELECT regexp_replace(repeat('ab', 30000), '((a|b)*?)+c', 'x', 'g')",
        "SELECT repeat('a', 5000) LIKE repeat('%a', 2000) || 'b'",
        "SELECT string_agg(repeat('x', 1000), '') FROM generate_series(1, 30000)",
        "SELECT array_agg(a.id) FROM orders a, orders b, orders c",
        "SELECT factorial(100000)",
        "SELECT ln(10::numeric ^ 9999) * exp(5999::numeric)",
        "SELECT 9::numeric ^ 9999 ^ 2 % 7",
        "SELECT * FROM orders a, orders b, orders c ORDER BY a.total * b.total * c.total",
        "SELECT jsonb_object_agg(a.id::text || b.id, c.details) FROM orders a, orders b, orders c",
        "SELECT to_tsvector(repeat('word ', 900000)) @@ to_tsquery('word & nothing')",
    ],
    "size": [
        "SELECT repeat('x', 30000000)",
        "SELECT data, data, data, data, data, raw, raw FROM wide",
        "SELECT repeat(data, 20) FROM wide, generate_series(1, 100)",
        "SELECT lpad('x', 9000000), rpad('x', 9000000)",
        "SELECT format('%9000000s', 'x')",
        "SELECT '[' || repeat('[', 100000)::text || ']'",
        "SELECT (repeat('[', 100000) || repeat(']', 100000))::jsonb",
        "SELECT replace(repeat('a', 10000), 'a', repeat('b', 2000))",
        "SELECT " + ", ".join(f"'{n}' AS c{n}" for n in range(1_200)),
        "SELECT 10::numeric ^ 100000",
        "SELECT 'x'::char(10000000)",
        "SELECT array_fill('x'::text, ARRAY[10000000])",
        "SELECT a.*, b.* FROM orders a, orders b",
        "SELECT",
    ],
    "too much to parse": [
        "SELECT " + "(" * 9_000 + "1" + ")" * 9_000,
    ],
    "what tables do of themselves": [
        "SELECT * FROM shared.trap",
        "SELECT * FROM trap",
        "SELECT * FROM shared.counter",
        "SELECT * FROM shared.locks",
        "SELECT * FROM shared.guarded",
        "SELECT * FROM shared.pairs",
        "SELECT pair FROM shared.pairs",
        "SELECT pair::text FROM shared.pairs",
        "SELECT concat(pair) FROM shared.pairs",
        "SELECT p FROM shared.pairs p",
        "SELECT last_value FROM made",
    ],
    "errors that carry what they found": [
        "SELECT secret::int FROM customers",
        "SELECT 1 / 0",
        "SELECT name FROM customers WHERE id = (SELECT id FROM customers)",
        "SELECT 'x' FROM nothing",
        "SELECT ';--' || $$ ; DROP TABLE orders $$",
        "SELECT 'a\\'",
        "SELECT U&'d\\0061t\\0061'",
    ],
}

#: Nothing of these is a write to a table, or a transaction that could be undone.
ONLY_CHECK = [
    ("SELECT pg_terminate_backend({victim})", "a session may end another one of its own role"),
    (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_get_activity(NULL)",
        "a session may end another one of its own role",
    ),
    ("SELECT txid_current()", "takes a transaction id"),
    ("SELECT pg_current_xact_id()", "takes a transaction id"),
    ("SELECT pg_logical_emit_message(true, 'x', 'y')", "takes a transaction id"),
    ("SELECT pg_logical_emit_message(false, 'x', 'y')", "writes to the log, and to no table"),
]

ATTACKS = _attacks()

QUESTIONS = {
    "count": "SELECT count(*) FROM orders",
    "trailing semicolon": "SELECT 1;",
    "comment at the end": "SELECT name FROM customers -- of all",
    "join": "SELECT name, total FROM customers c JOIN orders o ON o.customer_id = c.id LIMIT 5",
    "left join with using": "SELECT a.id FROM orders a LEFT JOIN orders b USING (id) "
    "WHERE a.id < 4",
    "natural join": "SELECT count(*) FROM notes NATURAL JOIN notes n",
    "group and having": "SELECT country, sum(total) FROM customers c JOIN orders o "
    "ON c.id = o.customer_id GROUP BY country HAVING sum(total) > 10 ORDER BY 2 DESC",
    "filter": "SELECT count(*) FILTER (WHERE total > 100), avg(total) FROM orders",
    "cte": "WITH big AS (SELECT * FROM orders WHERE total > 500) SELECT count(*) FROM big",
    "recursive cte": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) "
    "SELECT sum(i) FROM n",
    "materialized cte": "WITH o AS MATERIALIZED (SELECT * FROM orders) SELECT max(at) FROM o",
    "window": "SELECT id, rank() OVER (PARTITION BY customer_id ORDER BY total DESC), "
    "lag(total) OVER w FROM orders WINDOW w AS (ORDER BY at) LIMIT 9",
    "window frame": "SELECT day, sum(total) OVER (ORDER BY day ROWS BETWEEN 6 PRECEDING AND "
    "CURRENT ROW) FROM order_days LIMIT 9",
    "json operators": "SELECT details -> 'items' -> 0 ->> 'sku', details #>> '{items,0,count}', "
    "details @> '{\"paid\": true}', details ? 'paid' FROM orders LIMIT 3",
    "json functions": "SELECT o.id, i ->> 'sku' FROM orders o, "
    "jsonb_array_elements(o.details -> 'items') AS i LIMIT 3",
    "json path": "SELECT jsonb_path_query_array(details, '$.items[*].count') FROM orders LIMIT 3",
    "json of sql": "SELECT json_value(details, '$.paid' RETURNING boolean), "
    "json_query(details, '$.items'), json_exists(details, '$.paid') FROM orders LIMIT 3",
    "json table": "SELECT t.* FROM orders, JSON_TABLE(details, '$.items[*]' COLUMNS "
    "(sku text PATH '$.sku', n int PATH '$.count')) AS t LIMIT 3",
    "json building": "SELECT jsonb_agg(jsonb_build_object('n', name)), json_object('a': 1), "
    "json_array(1, 2) FROM customers WHERE id < 3",
    "dates": "SELECT date_trunc('month', at) AS month, extract(isodow FROM at), count(*) "
    "FROM orders WHERE at >= timestamptz '2026-01-01' + interval '3 days' GROUP BY 1, 2 LIMIT 5",
    "time zones": "SELECT at AT TIME ZONE 'Europe/Berlin', to_char(at, 'YYYY-MM-DD'), "
    "age(at, timestamptz '2026-01-01'), now() - at, current_date FROM orders LIMIT 3",
    "series of days": "SELECT d::date, count(o.id) FROM generate_series(date '2026-01-01', "
    "date '2026-01-09', interval '1 day') AS d LEFT JOIN orders o ON o.at::date = d GROUP BY 1",
    "lateral": "SELECT c.id, t.total FROM customers c CROSS JOIN LATERAL (SELECT total FROM orders "
    "WHERE customer_id = c.id ORDER BY total DESC LIMIT 1) t LIMIT 5",
    "grouping sets": "SELECT country, mood, count(*), grouping(country) FROM customers "
    "GROUP BY GROUPING SETS ((country, mood), (country), ())",
    "rollup and cube": "SELECT country, mood, count(*) FROM customers GROUP BY ROLLUP (country), "
    "CUBE (mood)",
    "full text": "SELECT id, ts_rank(words, q), ts_headline(body, q) FROM notes, "
    "websearch_to_tsquery('english', 'pump') q WHERE words @@ q ORDER BY 2 DESC",
    "full text of a column": "SELECT id FROM notes WHERE to_tsvector('english', body) @@ "
    "to_tsquery('english', 'filter & old')",
    "set operations": "SELECT id FROM notes UNION ALL SELECT id FROM customers EXCEPT SELECT 3 "
    "INTERSECT SELECT 4 ORDER BY 1",
    "distinct on": "SELECT DISTINCT ON (customer_id) customer_id, at FROM orders "
    "ORDER BY customer_id, at DESC LIMIT 5",
    "case and coalesce": "SELECT CASE mood WHEN 'angry' THEN 1 ELSE 0 END, coalesce(secret, '-'), "
    "nullif(country, 'DE'), greatest(1, id) FROM customers LIMIT 3",
    "subqueries": "SELECT name FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE "
    "o.customer_id = c.id AND o.total > ALL (SELECT 1)) AND id IN (1, 2) AND id BETWEEN 1 AND 9",
    "arrays": "SELECT tags[1], tags[1:2], 'all' = ANY (tags), array_length(tags, 1), "
    "array_agg(id) OVER () FROM orders WHERE tags && ARRAY['t1'] LIMIT 2",
    "unnest with ordinality": "SELECT t.tag, t.n FROM orders, unnest(tags) WITH ORDINALITY AS "
    "t(tag, n) LIMIT 4",
    "statistics": "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY total), stddev(total), "
    "corr(total::float8, id::float8), mode() WITHIN GROUP (ORDER BY customer_id) FROM orders",
    "regular expressions": "SELECT name FROM customers WHERE name ~* '^CUSTOMER [0-9]$' "
    "AND name NOT LIKE '%9' AND regexp_replace(name, '\\s+', '_') ILIKE 'customer\\_%'",
    "texts": "SELECT upper(trim(both ' ' from name)), substring(name from 1 for 3), "
    "position('m' in name), split_part(name, ' ', 2), md5(name), "
    "string_agg(country, ',' ORDER BY country), "
    "format('%s-%s', name, 1), overlay(name placing 'x' from 1), length(name) "
    "FROM customers GROUP BY name LIMIT 3",
    "enum": "SELECT 'angry'::mood, count(*) FROM customers WHERE mood = 'angry'::public.mood",
    "sample": "SELECT id FROM customers TABLESAMPLE bernoulli (50) REPEATABLE (1) "
    "ORDER BY random()",
    "values": "VALUES (1, 'a'), (2, 'b')",
    "table": "TABLE notes",
    "view": "SELECT day, total::float8, orders FROM order_days ORDER BY day LIMIT 3",
    "row values": "SELECT (id, name) FROM customers WHERE (id, country) = (1, 'FR') "
    "OR ROW(1) < ROW(2)",
    "ranges": "SELECT daterange('2026-01-01', '2026-02-01') @> date '2026-01-05', "
    "int4range(1, 5) * int4range(3, 9), width_bucket(total, 0, 900, 3) FROM orders LIMIT 1",
    "collation": 'SELECT name FROM customers ORDER BY name COLLATE "C" NULLS LAST '
    "FETCH FIRST 2 ROWS WITH TIES",
    "same name twice": "SELECT 1 AS a, 2 AS a",
    "function of rows": "SELECT * FROM ROWS FROM (generate_series(1, 2), unnest(ARRAY['a'])) "
    "AS r(a, b)",
    "record with columns": "SELECT * FROM jsonb_to_recordset('[{\"a\": 1}]') AS t(a int, b text)",
    "extension's operator": "SELECT id FROM places ORDER BY embedding <-> '[1,2,2]'::vector",
    "breadth first": "WITH RECURSIVE t(id, up) AS (SELECT 1, 0 UNION ALL SELECT id + 1, id FROM t "
    "WHERE id < 4) SEARCH BREADTH FIRST BY id SET o CYCLE id SET again USING path SELECT id FROM t",
}
