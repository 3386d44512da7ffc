//! A statement's text in, a syntax tree out. What is taken is a list: what is not on it is refused,
//! so that a form the engine learns one day does not become a way to files or to the network. A
//! tree that reads is the engine's; one that writes ([`super::statement`]) never reaches it.
//!
//! The dialect is CrateDB's: `"doc"."costs"`, `tags['org']`, `{a = 1}`, `?` and `$1`, `::` casts,
//! `FOR SYSTEM_TIME AS OF`; names fold to lower case unless quoted.

use std::any::TypeId;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    DictionaryField, Expr, FunctionArguments, Query, Select, SelectFlavor, SetExpr, ShowCreateObject,
    ShowStatementFilter, ShowStatementFilterPosition, ShowStatementOptions, Statement, TableFactor, TableVersion,
    Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::{Dialect, PostgreSqlDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::error::SqlError;
use super::statement::{Parsed, Write};
use super::{ddl, dml};

/// The longest statement, in bytes, without its arguments.
pub const MAX_STATEMENT_BYTES: usize = 1 << 20;
/// The most operators in one statement: a tree of them is as deep as they are many.
const MAX_OPERATORS: usize = 1000;
/// The longest text that `repeat`, `lpad` and `rpad` make.
const MAX_PADDED: usize = 10_000;

#[derive(Debug)]
struct CrateDialect;

impl Dialect for CrateDialect {
    /// Where the parser asks for dialects by name, CrateDB's is PostgreSQL's.
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_' || ch == '$'
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '"'
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }

    fn supports_string_escape_constant(&self) -> bool {
        true
    }

    fn supports_array_typedef_with_brackets(&self) -> bool {
        true
    }

    fn supports_window_clause_named_window_reference(&self) -> bool {
        true
    }

    fn supports_nested_comments(&self) -> bool {
        true
    }

    fn supports_table_versioning(&self) -> bool {
        true
    }

    /// An object as CrateDB writes it: `{a = 1, "B" = 'x'}`.
    fn parse_prefix(&self, parser: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
        parser.consume_token(&Token::LBrace).then(|| object(parser))
    }
}

fn object(parser: &mut Parser<'_>) -> Result<Expr, ParserError> {
    let mut fields = Vec::new();
    while !parser.consume_token(&Token::RBrace) {
        if !fields.is_empty() {
            parser.expect_token(&Token::Comma)?;
        }
        let key = parser.parse_identifier()?;
        if !parser.consume_token(&Token::Colon) {
            parser.expect_token(&Token::Eq)?;
        }
        fields.push(DictionaryField { key, value: Box::new(parser.parse_expr()?) });
    }
    Ok(Expr::Dictionary(fields))
}

/// One statement. Positional arguments are `$1`, `$2`, ... in it, however they were written.
///
/// # Errors
/// The text is no statement, more than one, or one that is not taken.
pub(super) fn parse(text: &str) -> Result<Parsed, SqlError> {
    if text.len() > MAX_STATEMENT_BYTES {
        return Err(SqlError::Syntax(format!(
            "the statement is longer than {MAX_STATEMENT_BYTES} bytes: use arguments"
        )));
    }
    let tokens = Tokenizer::new(&CrateDialect, text).tokenize_with_location();
    let mut tokens = tokens.map_err(|error| SqlError::Syntax(error.to_string()))?;
    number_arguments(&mut tokens)?;
    bound_depth(&tokens)?;
    let verb = tokens.iter().find_map(|token| match &token.token {
        Token::Word(word) => Some(word.value.to_uppercase()),
        _ => None,
    });
    let verb = verb.as_deref().unwrap_or_default();
    let mut parser = Parser::new(&CrateDialect).with_tokens_with_locations(tokens);
    if let Some(write) = write(&mut parser, verb)? {
        while parser.consume_token(&Token::SemiColon) {}
        return match parser.peek_token().token {
            Token::EOF => Ok(Parsed::Write(Box::new(write))),
            Token::Word(_) if parser.get_previous_token().token == Token::SemiColon => Err(more_than_one()),
            _ => Ok(parser.expected("the statement's end", parser.peek_token())?),
        };
    }
    let statements = parser.parse_statements();
    let mut statements = statements.map_err(|error| refused_by_its_verb(verb).unwrap_or_else(|| error.into()))?;
    let statement = statements.pop().ok_or_else(|| SqlError::Syntax("the statement is empty".to_owned()))?;
    if !statements.is_empty() {
        return Err(more_than_one());
    }
    match statement {
        Statement::ShowCreate { obj_type: ShowCreateObject::Table, obj_name } => Ok(Parsed::ShowCreate(obj_name)),
        statement => Ok(Parsed::Read(Box::new(admit(statement, verb)?))),
    }
}

/// One statement of our own making, which reads.
///
/// # Errors
/// As [`parse`].
pub(super) fn parse_read(text: &str) -> Result<Statement, SqlError> {
    match parse(text)? {
        Parsed::Read(statement) => Ok(*statement),
        Parsed::ShowCreate(_) | Parsed::Write(_) => Err(SqlError::Engine("a query became none".to_owned())),
    }
}

fn more_than_one() -> SqlError {
    SqlError::Syntax("more than one statement: send them one by one".to_owned())
}

/// A statement that writes, if the verb is one's.
fn write(parser: &mut Parser<'_>, verb: &str) -> Result<Option<Write>, SqlError> {
    let read = match verb {
        "CREATE" => ddl::create,
        "ALTER" => ddl::alter,
        "DROP" => ddl::drop,
        "REFRESH" => ddl::refresh,
        "INSERT" => dml::insert,
        "UPDATE" => dml::update,
        "DELETE" => dml::delete,
        _ => return Ok(None),
    };
    match &parser.next_token().token {
        Token::Word(word) if word.quote_style.is_none() => read(parser).map(Some),
        _ => Err(SqlError::Syntax(format!("{verb} is no statement's beginning here"))),
    }
}

/// Gives every `?` its number, in the order of the text.
fn number_arguments(tokens: &mut [TokenWithSpan]) -> Result<(), SqlError> {
    let mut number = 0;
    for token in tokens {
        let Token::Placeholder(name) = &mut token.token else { continue };
        if name == "?" {
            number += 1;
            *name = format!("${number}");
        } else if name.strip_prefix('$').and_then(|number| number.parse::<u16>().ok()).is_none_or(|number| number == 0)
        {
            return Err(SqlError::Syntax(format!("{name} is no argument: ? or $1 is")));
        }
    }
    Ok(())
}

/// Trees of operators lean to one side: as deep as there are operators, and deep trees are
/// walked and dropped recursively.
fn bound_depth(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    // The sign of a number in a list is no tree.
    let is_sign = |at: usize| {
        let before = tokens[..at].iter().rev().find(|token| !matches!(token.token, Token::Whitespace(_)));
        let after = tokens.get(at + 1).map(|token| &token.token);
        matches!(after, Some(Token::Number(..)))
            && before.is_some_and(|before| matches!(before.token, Token::Comma | Token::LParen))
    };
    let deepens = |(at, token): &(usize, &TokenWithSpan)| match &token.token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::IS
                | Keyword::JOIN
                | Keyword::COLLATE
                | Keyword::AT
        ),
        Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::Whitespace(_)
        | Token::Placeholder(_)
        | Token::Comma
        | Token::Period
        | Token::LParen
        | Token::RParen
        | Token::RBracket
        | Token::SemiColon
        | Token::EOF => false,
        Token::Minus => !is_sign(*at),
        _ => true,
    };
    if tokens.iter().enumerate().filter(deepens).count() > MAX_OPERATORS {
        return Err(SqlError::Syntax(format!(
            "more than {MAX_OPERATORS} operators in one statement: use IN or = ANY(?)"
        )));
    }
    Ok(())
}

/// Statements that are not taken, whether or not the rest of them parses.
fn refused_by_its_verb(verb: &str) -> Option<SqlError> {
    match verb {
        "COPY" => Some(SqlError::Unauthorized("COPY is not taken here: no statement reads or writes files".to_owned())),
        "MERGE" | "TRUNCATE" | "RENAME" | "OPTIMIZE" | "ANALYZE" | "GRANT" | "REVOKE" | "DENY" | "RESTORE" | "KILL"
        | "SWAP" | "SET" | "RESET" | "BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "DECLARE" | "FETCH"
        | "CLOSE" | "PREPARE" | "EXECUTE" | "DEALLOCATE" | "DISCARD" | "DESCRIBE" | "DESC" | "USE" | "CALL"
        | "ATTACH" | "LOAD" | "INSTALL" | "UNLOAD" | "VACUUM" | "PRAGMA" | "CACHE" | "EXPORT" | "IMPORT" | "LISTEN"
        | "NOTIFY" => Some(SqlError::Unsupported(format!("{verb} is not taken here"))),
        _ => None,
    }
}

/// The list of what is taken: a query, its plan without running it, and what `SHOW` shows.
fn admit(statement: Statement, verb: &str) -> Result<Statement, SqlError> {
    match statement {
        Statement::Query(query) => {
            reads(&*query)?;
            Ok(Statement::Query(query))
        }
        Statement::Explain { analyze: true, .. } => {
            Err(SqlError::Unsupported("EXPLAIN ANALYZE is not taken here: EXPLAIN is".to_owned()))
        }
        Statement::Explain { ref statement, ref options, .. } => match &**statement {
            Statement::Query(query) if options.is_none() => {
                reads(&**query)?;
                Ok(plain_explain(query.clone()))
            }
            _ => Err(SqlError::Unsupported("EXPLAIN takes a query and no options".to_owned())),
        },
        Statement::ShowTables { show_options, .. } => show("table_name", "tables", "table_schema", &show_options),
        Statement::ShowSchemas { show_options, .. } => show("schema_name", "schemata", "schema_name", &show_options),
        Statement::ShowColumns { show_options, .. } => {
            show("column_name, data_type", "columns", "table_name", &show_options)
        }
        _ => Err(refused_by_its_verb(verb).unwrap_or_else(|| {
            SqlError::Unsupported(format!("{verb} is not taken here: SELECT, VALUES, SHOW and EXPLAIN are"))
        })),
    }
}

fn plain_explain(query: Box<Query>) -> Statement {
    Statement::Explain {
        describe_alias: datafusion::sql::sqlparser::ast::DescribeAlias::Explain,
        analyze: false,
        verbose: false,
        query_plan: false,
        estimate: false,
        statement: Box::new(Statement::Query(query)),
        format: None,
        options: None,
    }
}

/// `SHOW ...` as the query on `information_schema` that it stands for.
fn show(columns: &str, from: &str, within: &str, options: &ShowStatementOptions) -> Result<Statement, SqlError> {
    let literal = |text: &str| {
        Expr::value(datafusion::sql::sqlparser::ast::Value::SingleQuotedString(text.to_owned())).to_string()
    };
    let mut conditions = Vec::new();
    match options.show_in.as_ref().and_then(|place| place.parent_name.as_ref()) {
        Some(name) => {
            let name = name.0.last().and_then(|part| part.as_ident());
            let name =
                name.map(
                    |ident| if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() },
                );
            conditions.push(format!("{within} = {}", literal(&name.unwrap_or_default())));
        }
        None if from == "tables" => {
            conditions.push("table_schema NOT IN ('information_schema', 'sys', 'pg_catalog')".to_owned());
        }
        None => {}
    }
    match &options.filter_position {
        Some(ShowStatementFilterPosition::Infix(filter) | ShowStatementFilterPosition::Suffix(filter)) => {
            match filter {
                ShowStatementFilter::Like(pattern) | ShowStatementFilter::NoKeyword(pattern) => {
                    let column = columns.split(',').next().unwrap_or(columns);
                    conditions.push(format!("{column} LIKE {}", literal(pattern)));
                }
                ShowStatementFilter::ILike(_) | ShowStatementFilter::Where(_) => {
                    return Err(SqlError::Unsupported("SHOW takes LIKE alone".to_owned()));
                }
            }
        }
        None => {}
    }
    let conditions = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    let text = format!("SELECT {columns} FROM information_schema.{from}{conditions} ORDER BY 1");
    parse_read(&text)
}

/// Whether a query, or an expression, only reads tables, at any depth.
pub(super) fn reads(part: &impl Visit) -> Result<(), SqlError> {
    match part.visit(&mut Reads) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Reads;

impl Reads {
    fn expect(holds: bool, what: &str) -> ControlFlow<SqlError> {
        if holds {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(SqlError::Unsupported(format!("{what} is not taken here")))
        }
    }
}

impl Visitor for Reads {
    type Break = SqlError;

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<SqlError> {
        let text = statement.to_string();
        let verb = text.split_whitespace().next().unwrap_or_default();
        ControlFlow::Break(SqlError::Unsupported(format!("{verb} within a query is not taken here")))
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<SqlError> {
        Self::expect(query.locks.is_empty(), "FOR UPDATE")?;
        Self::expect(
            query.for_clause.is_none()
                && query.settings.is_none()
                && query.format_clause.is_none()
                && query.pipe_operators.is_empty(),
            "a clause at the query's end",
        )?;
        Self::expect(!matches!(*query.body, SetExpr::Table(_)), "TABLE")
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<SqlError> {
        Self::expect(select.into.is_none(), "SELECT INTO")?;
        Self::expect(
            select.top.is_none()
                && select.exclude.is_none()
                && select.select_modifiers.is_none()
                && select.lateral_views.is_empty()
                && select.prewhere.is_none()
                && select.connect_by.is_empty()
                && select.cluster_by.is_empty()
                && select.distribute_by.is_empty()
                && select.sort_by.is_empty()
                && select.value_table_mode.is_none()
                && select.flavor == SelectFlavor::Standard,
            "a clause of the SELECT",
        )
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<SqlError> {
        match factor {
            TableFactor::Table { args: Some(_), name, .. } => {
                let known = ["generate_series", "unnest", "pg_get_keywords", "pg_catalog.pg_get_keywords"];
                Self::expect(
                    known.contains(&name.to_string().to_lowercase().as_str()),
                    &format!("table function {name}"),
                )
            }
            TableFactor::Table {
                args: None,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
                ..
            } => {
                Self::expect(
                    matches!(version, None | Some(TableVersion::ForSystemTimeAsOf(_) | TableVersion::TimestampAsOf(_))),
                    "a table's version by anything but FOR SYSTEM_TIME AS OF",
                )?;
                Self::expect(
                    with_hints.is_empty()
                        && !with_ordinality
                        && partitions.is_empty()
                        && json_path.is_none()
                        && sample.is_none()
                        && index_hints.is_empty(),
                    "a clause after a table's name",
                )
            }
            TableFactor::Derived { sample: None, .. } | TableFactor::NestedJoin { .. } => ControlFlow::Continue(()),
            TableFactor::UNNEST { with_offset: false, with_ordinality: false, .. } => ControlFlow::Continue(()),
            other => Self::expect(false, &format!("{other} in FROM")),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<SqlError> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = function.name.to_string().to_lowercase();
        if !matches!(name.as_str(), "repeat" | "lpad" | "rpad") {
            return ControlFlow::Continue(());
        }
        let length = match &function.args {
            FunctionArguments::List(list) => {
                list.args.get(1).and_then(|length| length.to_string().parse::<usize>().ok())
            }
            _ => None,
        };
        Self::expect(
            length.is_some_and(|length| length <= MAX_PADDED),
            &format!("{name} beyond a literal {MAX_PADDED}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> u16 {
        parse(text).expect_err(text).code()
    }

    #[test]
    fn cratedbs_forms_of_reading_are_taken() {
        for text in [
            "SELECT 1",
            "select 1;",
            "SELECT tags['org'] FROM \"doc\".\"costs\" WHERE tags['org'] = 'test'",
            "SELECT a::bigint FROM t WHERE b > CURRENT_TIMESTAMP - INTERVAL '2 week'",
            "SELECT a FROM t WHERE b = ? AND c = $2 LIMIT ? OFFSET 2",
            "SELECT * FROM t FOR SYSTEM_TIME AS OF TIMESTAMP '2026-01-01T00:00:00Z' c WHERE c.a = ANY(?)",
            "WITH x AS (SELECT 1 AS a) SELECT a FROM x UNION ALL VALUES (1), (2)",
            "SELECT count(*) FILTER (WHERE a > 1), sum(b) OVER (PARTITION BY c) FROM t",
            "SELECT current_user, current_schema, name FROM sys.cluster",
            "SELECT a FROM t WHERE b !~ ? AND c ~* 'x'",
            "EXPLAIN SELECT 1",
            "SHOW TABLES",
            "SHOW TABLES FROM doc LIKE 'c%'",
            "SHOW SCHEMAS",
            "SHOW COLUMNS FROM costs",
            "SELECT col FROM generate_series(1, 3) t(col)",
            "SELECT word FROM pg_catalog.pg_get_keywords()",
            "SELECT 'a -- b' /* c /* d */ */ -- e",
        ] {
            assert!(parse(text).is_ok(), "{text}: {:?}", parse(text));
        }
    }

    #[test]
    fn cratedbs_forms_of_writing_are_taken() {
        for text in [
            "INSERT INTO t (a) VALUES (1)",
            "insert into \"doc\".\"t\" (\"select\", b) values ($1, ?), (-1, {a = [1], \"B\" = {}});",
            "INSERT INTO t VALUES (1, now() - INTERVAL '1 day')",
            "INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET b = excluded.b, c['x'] = 1",
            "INSERT INTO t (a) (SELECT a FROM u) ON CONFLICT DO NOTHING",
            "INSERT INTO t WITH x AS (SELECT 1) SELECT * FROM x",
            "UPDATE t SET a = 1, o['k']['l'] = ? WHERE b IN (SELECT b FROM u)",
            "UPDATE doc.t AS x SET a = x.a + 1",
            "DELETE FROM t",
            "DELETE FROM t x WHERE x.a = ?",
            "CREATE TABLE IF NOT EXISTS t (id string, keys object, PRIMARY KEY (id)) WITH (column_policy = 'dynamic')",
            "CREATE TABLE t (a int PRIMARY KEY, index text, o OBJECT(IGNORED) AS (x ARRAY(OBJECT), y text[])) CLUSTERED INTO 2 SHARDS",
            "CREATE TABLE t (\n\t\"index\" LONG, \n\t\"Cost\" DOUBLE, \n\tt TIMESTAMP WITHOUT TIME ZONE\n)\n\n",
            "DROP TABLE IF EXISTS t;",
            "REFRESH TABLE t, u PARTITION (a = 1)",
            "ALTER TABLE t ADD COLUMN a text, ADD o['x'] numeric(10, 2)",
            "SHOW CREATE TABLE t",
        ] {
            assert!(parse(text).is_ok(), "{text}: {:?}", parse(text));
        }
    }

    #[test]
    fn what_reaches_files_or_settings_is_refused() {
        for text in [
            "COPY t TO DIRECTORY '/tmp'",
            "COPY t FROM 'file:///etc/passwd'",
            "COPY (SELECT 1) TO '/tmp/x.parquet'",
            "SET SESSION x = 1",
            "EXPLAIN ANALYZE SELECT 1",
            "EXPLAIN INSERT INTO t SELECT 1",
            "SELECT * FROM read_csv('/etc/passwd')",
            "SELECT * FROM parquet_scan('/x')",
            "SELECT * FROM TABLE(read_csv('/etc/passwd'))",
            "SELECT * FROM LATERAL read_parquet('/x')",
            "SELECT * FROM t WHERE a IN (SELECT b FROM read_json('/x'))",
            "SELECT * FROM t FOR UPDATE",
            "SELECT * INTO u FROM t",
            "SELECT repeat('x', 1000000000)",
            "SELECT lpad('x', n) FROM t",
            "PREPARE p AS SELECT 1",
            "LOAD 'x.so'",
            "DESCRIBE t",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
            "CREATE FUNCTION f() RETURNS int LANGUAGE javascript AS 'x'",
            "CREATE REPOSITORY r TYPE fs WITH (location = '/tmp')",
            "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
            "(INSERT INTO t VALUES (1))",
            "INSERT INTO t SELECT * FROM read_csv('/etc/passwd')",
            "INSERT INTO t VALUES ((SELECT a FROM read_csv('/etc/passwd')))",
            "DELETE FROM t WHERE a = lpad('x', 1000000000)",
            "TRUNCATE t",
            "BEGIN",
        ] {
            let code = code(text);
            assert!(matches!(code, 4000 | 4004 | 4010), "{text}: {code}");
        }
    }

    #[test]
    fn what_is_no_statement_is_a_syntax_error() {
        for text in ["", ";", "SELEC 1", "SELECT 1; SELECT 2", "SELECT 'open", "SELECT $0", "SELECT ?1", "SELECT $name"]
        {
            assert_eq!(code(text), 4000, "{text}");
        }
    }

    #[test]
    fn a_statement_that_would_be_a_deep_tree_is_refused_or_survived() {
        let deep = format!("SELECT {}", vec!["1"; MAX_OPERATORS].join(" + "));
        drop(parse(&deep).expect("within the bound"));
        for text in [
            format!("SELECT {}", vec!["1"; 100_000].join(" + ")),
            format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000)),
            format!("SELECT {} 1", "NOT ".repeat(100_000)),
            format!("SELECT 1{}", "::int".repeat(100_000)),
            format!("SELECT a{}", "['x']".repeat(100_000)),
            format!("SELECT 1{}", " UNION SELECT 1".repeat(50_000)),
            format!("SELECT {}", "- ".repeat(100_000)),
            format!("SELECT {}", "[".repeat(100_000)),
            format!("SELECT {}", "CASE WHEN ".repeat(50_000)),
            format!("SELECT {}", "f(".repeat(50_000)),
        ] {
            assert_eq!(code(&text), 4000, "{}", &text[..40]);
        }
    }

    #[test]
    fn arguments_are_numbered_as_the_text_has_them() {
        let statement = parse_read("SELECT ? FROM t WHERE a = ? LIMIT ?").expect("a statement").to_string();
        assert_eq!(statement, "SELECT $1 FROM t WHERE a = $2 LIMIT $3");
    }
}
