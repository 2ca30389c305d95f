"""Can the role change anything? A wall that holds whatever a statement says.

Belongs here: what a role may hold, and the SQL that takes away what it must not. Does not belong
here: what a statement may say (`statement`, `names`).
"""

from agent_pipelines.errors import UserError
from agent_pipelines.toolservers.postgres.session import Connection

#: Named in one message; whoever puts these right is told of the next.
_SHOWN = 12

#: What the role can do beyond reading, itself or as any role that it may become, as (what, the SQL
#: that takes it away). Privileges are read from who they were granted to, so that the SQL names
#: that role: PUBLIC has grantee 0.
_BEYOND_READING = """
WITH me AS (
  SELECT r.* FROM pg_roles r JOIN pg_roles login ON login.rolname = session_user
  WHERE CASE WHEN login.rolsuper THEN r.oid = login.oid  -- else a member of every role
             ELSE pg_has_role(login.oid, r.oid, 'MEMBER') END
), grantee(oid, name) AS (
  SELECT oid, quote_ident(rolname) FROM me UNION ALL SELECT 0::oid, 'PUBLIC'
)
SELECT 1, format('%I is more than an ordinary role', rolname),
       format('ALTER ROLE %I NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION '
                         'NOBYPASSRLS', rolname)
FROM me WHERE rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls
UNION ALL
SELECT 2, format('it is a member of %I', rolname),
       format('REVOKE %I FROM %I', rolname, session_user)
FROM me WHERE rolname IN (
  'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program',
  'pg_write_all_data', 'pg_signal_backend', 'pg_signal_autovacuum_worker', 'pg_checkpoint',
  'pg_maintain', 'pg_create_subscription', 'pg_monitor', 'pg_read_all_settings',
  'pg_read_all_stats', 'pg_stat_scan_tables', 'pg_database_owner')
UNION ALL
SELECT 3, format('%I owns %s', me.rolname,
         CASE WHEN d.classid = 'pg_class'::regclass
               AND d.dbid <> 0 THEN d.objid::regclass::text
              ELSE 'things' END),
       format('REASSIGN OWNED BY %I TO another_role', me.rolname)
FROM me JOIN pg_shdepend d ON d.refobjid = me.oid AND d.deptype = 'o'
  AND d.refclassid = 'pg_authid'::regclass
WHERE NOT me.rolsuper
UNION ALL
SELECT 4, format('%s may %s %s', g.name, a.privilege_type, c.oid::regclass),
       format('REVOKE %s ON %s FROM %s', a.privilege_type,
                         c.oid::regclass, g.name)
FROM pg_class c, aclexplode(c.relacl) a, grantee g
WHERE a.grantee = g.oid AND c.oid <> 'pg_settings'::regclass
  AND a.privilege_type <> 'SELECT'
UNION ALL
SELECT 5, format('%s may %s column %I of %s', g.name, a.privilege_type, t.attname,
                            t.attrelid::regclass),
       format('REVOKE %s (%I) ON %s FROM %s', a.privilege_type, t.attname,
                         t.attrelid::regclass, g.name)
FROM pg_attribute t, aclexplode(t.attacl) a, grantee g
WHERE a.grantee = g.oid AND a.privilege_type <> 'SELECT'
UNION ALL
SELECT 6, format('%s may create in schema %I', g.name, n.nspname),
       format('REVOKE CREATE ON SCHEMA %I FROM %s', n.nspname, g.name)
FROM pg_namespace n, aclexplode(n.nspacl) a, grantee g
WHERE a.grantee = g.oid AND a.privilege_type = 'CREATE'
UNION ALL
SELECT 7, format('%s may create schemas in database %I', g.name, d.datname),
       format('REVOKE CREATE ON DATABASE %I FROM %s', d.datname, g.name)
FROM pg_database d, aclexplode(d.datacl) a, grantee g
WHERE d.datname = current_database() AND a.grantee = g.oid
  AND a.privilege_type = 'CREATE'
UNION ALL
SELECT 8, format('%s may write large object %s', g.name, l.oid),
       format('REVOKE UPDATE ON LARGE OBJECT %s FROM %s', l.oid, g.name)
FROM pg_largeobject_metadata l, aclexplode(l.lomacl) a, grantee g
WHERE a.grantee = g.oid AND a.privilege_type = 'UPDATE'
ORDER BY 1, 2
"""

_UNREADABLE = """
SELECT name FROM unnest(%s::text[]) AS asked(name)
WHERE NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = asked.name
                  AND has_schema_privilege(n.oid, 'USAGE'))
"""


def check(connection: Connection, schemas: tuple[str, ...]) -> None:
    """See that the role of a connection can read ``schemas``, and do nothing else.

    Raises:
        UserError: it can do more, or less; the remedy is the SQL to run.
    """
    [(role,)] = connection.execute("SELECT quote_ident(session_user)").fetchall()
    beyond = connection.execute(_BEYOND_READING).fetchall()
    if beyond:
        shown = beyond[:_SHOWN]
        more = f"; and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
        sql = dict.fromkeys(f"{fix};" for _, _, fix in shown)
        grants = " ".join(
            f'GRANT USAGE ON SCHEMA "{schema}" TO agent_reader; '
            f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO agent_reader;'
            for schema in schemas
        )
        raise UserError(
            f"the role {role} of TOOLS_POSTGRES_URL can do more than read: "
            f"{'; '.join(str(what) for _, what, _ in shown)}{more}",
            remedy=f"run: {' '.join(sql)}\n  or use a role made for this: CREATE ROLE agent_reader "
            f"LOGIN PASSWORD '…'; ALTER ROLE agent_reader SET temp_file_limit = '1GB'; {grants}",
        )
    missing = [str(name) for (name,) in connection.execute(_UNREADABLE, [list(schemas)])]
    if missing:
        raise UserError(
            f"the role {role} of TOOLS_POSTGRES_URL cannot read schema {', '.join(missing)} of "
            "TOOLS_POSTGRES_SCHEMAS",
            remedy="correct the variable, or run: "
            + " ".join(
                f'GRANT USAGE ON SCHEMA "{name}" TO {role}; '
                f'GRANT SELECT ON ALL TABLES IN SCHEMA "{name}" TO {role};'
                for name in missing
            ),
        )
