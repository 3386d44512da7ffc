//! A tree that only reads, in CrateDB's words, in; the same in the engine's words out: with
//! arguments for `$1`, the session's own values, table versions taken off and noted, types
//! and functions by the engine's names. What its columns are to be called is found first.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, Array, BinaryOperator, DataType, ExactNumberInfo, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, Ident, ObjectName, ObjectNamePart, SelectItem, SetExpr, Statement, TableAlias, TableFactor,
    TableVersion, TimezoneInfo, Value, ValueWithSpan, VisitMut, VisitorMut,
};

use super::args::{self, Arg};
use super::error::SqlError;

/// Integers in a list that are compared one by one.
const MAX_COMPARISONS: usize = 64;

/// The schema in which the tables of the n-th `FOR SYSTEM_TIME AS OF` stand.
pub(super) fn version_schema(at: usize) -> String {
    format!("~{at}")
}

/// What the session says of itself.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) schema: String,
    pub(super) user: String,
    pub(super) version: &'static str,
}

/// A rewritten statement.
pub(super) struct Rewritten {
    pub(super) statement: Statement,
    /// What the columns are to be called; nothing when only the engine can tell (`SELECT *`).
    pub(super) columns: Option<Vec<String>>,
    /// The times of `FOR SYSTEM_TIME AS OF`, by the number of [`version_schema`].
    pub(super) versions: Vec<Expr>,
    /// Whether some table stands in a schema of the system's.
    pub(super) system: bool,
    /// Names in FROM that are functions.
    pub(super) functions: HashSet<String>,
}

/// Rewrites a statement.
///
/// # Errors
/// An argument is missing.
pub(super) fn rewrite(mut statement: Statement, args: &[Arg], session: &Session) -> Result<Rewritten, SqlError> {
    let columns = match &mut statement {
        Statement::Query(query) => name_columns(&mut query.body),
        _ => None,
    };
    let mut rewriter = Rewriter { args, session, versions: Vec::new(), system: false, functions: HashSet::new() };
    match statement.visit(&mut rewriter) {
        ControlFlow::Continue(()) => {
            let Rewriter { versions, system, functions, .. } = rewriter;
            Ok(Rewritten { statement, columns, versions, system, functions })
        }
        ControlFlow::Break(error) => Err(error),
    }
}

/// Rewrites an expression of a statement that writes.
///
/// # Errors
/// As [`rewrite`].
pub(super) fn expression(mut expr: Expr, args: &[Arg], session: &Session) -> Result<Expr, SqlError> {
    let mut rewriter = Rewriter { args, session, versions: Vec::new(), system: false, functions: HashSet::new() };
    match expr.visit(&mut rewriter) {
        ControlFlow::Continue(()) => Ok(expr),
        ControlFlow::Break(error) => Err(error),
    }
}

/// The names of a query's columns as CrateDB gives them. An item whose name an earlier one
/// has is given another one for the engine, which wants them distinct.
fn name_columns(body: &mut SetExpr) -> Option<Vec<String>> {
    match body {
        SetExpr::Select(select) => {
            let mut names: Vec<String> = Vec::new();
            let mut taken = HashSet::new();
            for item in &mut select.projection {
                let name = match item {
                    SelectItem::UnnamedExpr(expr) => name_of(expr),
                    SelectItem::ExprWithAlias { alias, .. } => folded(alias),
                    _ => return None,
                };
                if !taken.insert(name.clone()) {
                    let other = Ident::with_quote('"', format!("{name}~{}", names.len()));
                    *item = match std::mem::replace(item, SelectItem::Wildcard(Default::default())) {
                        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                            SelectItem::ExprWithAlias { expr, alias: other }
                        }
                        item => item,
                    };
                }
                names.push(name);
            }
            Some(names)
        }
        SetExpr::Query(query) => name_columns(&mut query.body),
        SetExpr::SetOperation { left, .. } => name_columns(left),
        SetExpr::Values(values) => {
            let columns = values.rows.first().map_or(0, |row| row.content.len());
            Some((1..=columns).map(|number| format!("col{number}")).collect())
        }
        _ => None,
    }
}

/// A name as it is meant: in lower case unless it stands in quotes.
pub(super) fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

fn name_of(expr: &Expr) -> String {
    struct Folder;
    impl VisitorMut for Folder {
        type Break = ();

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            match expr {
                Expr::Identifier(ident) => *ident = Ident::new(folded(ident)),
                Expr::CompoundIdentifier(parts) => {
                    if let Some(last) = parts.last() {
                        *expr = Expr::Identifier(Ident::new(folded(last)));
                    }
                }
                // `c.tags['org']`: what stands before a point names the table.
                Expr::CompoundFieldAccess { root, access_chain } => {
                    let named = access_chain
                        .iter()
                        .take_while(|access| matches!(access, AccessExpr::Dot(Expr::Identifier(_))))
                        .count();
                    if let Some(AccessExpr::Dot(last)) = access_chain.drain(..named).next_back() {
                        **root = last;
                    }
                }
                Expr::Function(function) => {
                    for part in &mut function.name.0 {
                        if let ObjectNamePart::Identifier(ident) = part {
                            *ident = Ident::new(folded(ident));
                        }
                    }
                }
                _ => {}
            }
            ControlFlow::Continue(())
        }
    }
    match expr {
        Expr::Identifier(ident) => folded(ident),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded).unwrap_or_default(),
        Expr::Nested(inner) => name_of(inner),
        expr => {
            let mut expr = expr.clone();
            let _ = expr.visit(&mut Folder);
            expr.to_string()
        }
    }
}

/// Whether the engine could not tell two columns of a statement apart.
pub(super) fn wants_aliases(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::Plan(text) if text.starts_with("Projections require unique expression names"))
}

/// The statement with an alias of its own for every column that has none.
pub(super) fn with_aliases(mut statement: Statement) -> Statement {
    fn alias(body: &mut SetExpr) {
        match body {
            SetExpr::Select(select) => {
                for (at, item) in select.projection.iter_mut().enumerate() {
                    if let SelectItem::UnnamedExpr(expr) = item
                        && !is_name(expr)
                    {
                        let alias = Ident::with_quote('"', format!("{}~{at}", name_of(expr)));
                        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                    }
                }
            }
            SetExpr::Query(query) => alias(&mut query.body),
            SetExpr::SetOperation { left, right, .. } => {
                alias(left);
                alias(right);
            }
            _ => {}
        }
    }
    if let Statement::Query(query) = &mut statement {
        alias(&mut query.body);
    }
    statement
}

struct Rewriter<'a> {
    args: &'a [Arg],
    session: &'a Session,
    versions: Vec<Expr>,
    system: bool,
    functions: HashSet<String>,
}

impl VisitorMut for Rewriter<'_> {
    type Break = SqlError;

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        let TableFactor::Table { name, alias, args, version, .. } = factor else { return ControlFlow::Continue(()) };
        let parts: Vec<Ident> = name.0.iter().filter_map(|part| part.as_ident().cloned()).collect();
        let schema = parts.len().checked_sub(2).map(|at| folded(&parts[at]));
        let schema = schema.as_deref().unwrap_or(&self.session.schema);
        self.system |= matches!(schema, "information_schema" | "sys" | "pg_catalog");
        let Some(table) = parts.last() else { return ControlFlow::Continue(()) };
        if folded(table) == "pg_get_keywords" {
            *args = None;
            *name = object_name([Ident::new("pg_catalog"), table.clone()]);
            self.system = true;
        }
        if args.is_some() {
            self.functions.insert(folded(table));
        }
        let Some(TableVersion::ForSystemTimeAsOf(time) | TableVersion::TimestampAsOf(time)) = version.take() else {
            return ControlFlow::Continue(());
        };
        if schema != super::SCHEMA {
            let text = "FOR SYSTEM_TIME AS OF is for tables of schema doc".to_owned();
            return ControlFlow::Break(SqlError::Unsupported(text));
        }
        // The same time is the same version, for a table joined with itself.
        let at = self.versions.iter().position(|known| *known == time).unwrap_or_else(|| {
            self.versions.push(time);
            self.versions.len() - 1
        });
        if alias.is_none() {
            *alias = Some(TableAlias { explicit: true, name: table.clone(), columns: Vec::new(), at: None });
        }
        *name = object_name([Ident::with_quote('"', version_schema(at)), table.clone()]);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        match expr {
            Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) => {
                let number: usize = name.trim_start_matches('$').parse().unwrap_or_default();
                match number.checked_sub(1).and_then(|at| self.args.get(at)) {
                    Some(arg) => *expr = arg.literal(),
                    None => {
                        let text = format!("the statement wants argument {number}, and args holds {}", self.args.len());
                        return ControlFlow::Break(SqlError::Invalid(text));
                    }
                }
            }
            Expr::Identifier(ident) if ident.quote_style.is_none() => {
                if let Some(value) = self.own_value(&ident.value.to_lowercase()) {
                    *expr = text(value);
                }
            }
            Expr::Dictionary(_) => match Arg::of_literal(expr) {
                Some(object) => *expr = object.literal(),
                None => {
                    let text = "an object in a statement holds literals and arguments alone".to_owned();
                    return ControlFlow::Break(SqlError::Unsupported(text));
                }
            },
            Expr::Cast { data_type: DataType::Custom(name, _), expr: text, .. }
                if name.to_string().eq_ignore_ascii_case("object") =>
            {
                let made = Arg::of_literal(text).and_then(|text| match text {
                    Arg::Text(text) => Some(args::object_of(text)),
                    object @ Arg::Object(_) => Some(object.literal()),
                    Arg::Null => Some(Arg::Null.literal()),
                    _ => None,
                });
                match made {
                    Some(made) => *expr = made,
                    None => {
                        return ControlFlow::Break(SqlError::Invalid(
                            "an object is cast from its JSON text".to_owned(),
                        ));
                    }
                }
            }
            Expr::Cast { data_type, .. }
            | Expr::TypedString(datafusion::sql::sqlparser::ast::TypedString { data_type, .. }) => {
                rename_type(data_type);
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } if matches!(**right, Expr::Array(_)) => {
                let Expr::Array(Array { elem, .. }) = &mut **right else { return ControlFlow::Continue(()) };
                *expr = is_one_of(left, std::mem::take(elem), false);
            }
            Expr::InList { expr: one, list, negated } => *expr = is_one_of(one, std::mem::take(list), *negated),
            Expr::Between { expr: between, negated, low, high } if is_name(between) => {
                *expr = between_as_comparisons(between, *negated, low, high);
            }
            Expr::Function(function) => {
                if let Some(replaced) = self.function(function) {
                    *expr = replaced;
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

impl Rewriter<'_> {
    /// What a name stands for that is no column.
    fn own_value(&self, name: &str) -> Option<&str> {
        match name {
            "current_user" | "session_user" | "user" => Some(&self.session.user),
            "current_schema" => Some(&self.session.schema),
            "current_catalog" | "current_database" => Some(super::CATALOG),
            _ => None,
        }
    }

    /// A function by the engine's name; an expression when it is to take its place.
    fn function(&self, function: &mut Function) -> Option<Expr> {
        let name = function.name.0.last()?.as_ident().map(folded)?;
        let empty = match &function.args {
            FunctionArguments::None => true,
            FunctionArguments::List(list) => list.args.is_empty(),
            FunctionArguments::Subquery(_) => false,
        };
        if empty && name == "version" {
            return Some(text(self.session.version));
        }
        if empty && let Some(value) = self.own_value(&name) {
            return Some(text(value));
        }
        let engines = match name.as_str() {
            "any_value" | "arbitrary" => "first_value",
            "array_unique" => "array_distinct",
            "percentile" => "approx_percentile_cont",
            "curdate" => "current_date",
            "format" => {
                let FunctionArguments::List(list) = &mut function.args else { return None };
                list.args = formatted(&list.args)?;
                "concat"
            }
            "date_format" => {
                // CrateDB has the format first.
                if let FunctionArguments::List(list) = &mut function.args
                    && let [first, second] = list.args.as_mut_slice()
                    && matches!(first, FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(_))))
                {
                    std::mem::swap(first, second);
                }
                return None;
            }
            _ => return None,
        };
        function.name = object_name([Ident::new(engines)]);
        None
    }
}

/// The parts of `format('%s is %s', a, b)`, to be joined; nothing when it has other forms than `%s`.
fn formatted(args: &[FunctionArg]) -> Option<Vec<FunctionArg>> {
    let (FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(format))), values) = args.split_first()? else {
        return None;
    };
    let Value::SingleQuotedString(format) = &format.value else { return None };
    let pieces: Vec<&str> = format.split("%s").collect();
    if pieces.len() != values.len() + 1 || pieces.iter().any(|piece| piece.contains('%')) {
        return None;
    }
    let piece = |piece: &str| FunctionArg::Unnamed(FunctionArgExpr::Expr(text(piece)));
    let mut parts = vec![piece(pieces[0])];
    for (value, after) in values.iter().zip(&pieces[1..]) {
        parts.extend([value.clone(), piece(after)]);
    }
    Some(parts)
}

fn object_name(parts: impl IntoIterator<Item = Ident>) -> ObjectName {
    ObjectName(parts.into_iter().map(ObjectNamePart::Identifier).collect())
}

fn text(value: &str) -> Expr {
    Expr::value(Value::SingleQuotedString(value.to_owned()))
}

fn is_name(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

/// `a IN (1, 2)` as comparisons, each of which takes an integer for a time, when the list is
/// short and of nothing but integers; `a = ANY([])` is false.
fn is_one_of(expr: &Expr, list: Vec<Expr>, negated: bool) -> Expr {
    let is_integer = |item: &Expr| matches!(item, Expr::Value(ValueWithSpan { value: Value::Number(text, _), .. }) if text.bytes().all(|b| b.is_ascii_digit()));
    if list.is_empty() {
        return Expr::value(Value::Boolean(negated));
    }
    if !is_name(expr) || list.len() > MAX_COMPARISONS || !list.iter().all(is_integer) {
        return Expr::InList { expr: Box::new(expr.clone()), list, negated };
    }
    let (each, joined) =
        if negated { (BinaryOperator::NotEq, BinaryOperator::And) } else { (BinaryOperator::Eq, BinaryOperator::Or) };
    let compared = list.into_iter().map(|item| Expr::BinaryOp {
        left: Box::new(expr.clone()),
        op: each.clone(),
        right: Box::new(item),
    });
    let all = compared.reduce(|left, right| Expr::BinaryOp {
        left: Box::new(left),
        op: joined.clone(),
        right: Box::new(right),
    });
    Expr::Nested(Box::new(all.unwrap_or(Expr::value(Value::Boolean(negated)))))
}

/// `a BETWEEN b AND c` as two comparisons, each of which takes an integer for a time.
fn between_as_comparisons(expr: &Expr, negated: bool, low: &Expr, high: &Expr) -> Expr {
    let compare = |op, with: &Expr| Expr::BinaryOp {
        left: Box::new(expr.clone()),
        op,
        right: Box::new(Expr::Nested(Box::new(with.clone()))),
    };
    let (low, both, high) = if negated {
        (compare(BinaryOperator::Lt, low), BinaryOperator::Or, compare(BinaryOperator::Gt, high))
    } else {
        (compare(BinaryOperator::GtEq, low), BinaryOperator::And, compare(BinaryOperator::LtEq, high))
    };
    Expr::Nested(Box::new(Expr::BinaryOp { left: Box::new(low), op: both, right: Box::new(high) }))
}

/// CrateDB's names of types, where the engine has others; times in microseconds, as the
/// tables hold them.
fn rename_type(data_type: &mut DataType) {
    let renamed = match data_type {
        DataType::Timestamp(None, zone) => DataType::Timestamp(Some(6), *zone),
        DataType::Numeric(ExactNumberInfo::None) | DataType::Decimal(ExactNumberInfo::None) => {
            DataType::Decimal(ExactNumberInfo::PrecisionAndScale(38, 18))
        }
        DataType::Varchar(Some(_)) | DataType::CharacterVarying(_) => DataType::Text,
        DataType::Custom(name, _) => match name.to_string().to_lowercase().as_str() {
            "string" => DataType::Text,
            "long" => DataType::BigInt(None),
            "short" => DataType::SmallInt(None),
            "byte" => DataType::TinyInt(None),
            "timestamptz" => DataType::Timestamp(Some(6), TimezoneInfo::Tz),
            _ => return,
        },
        _ => return,
    };
    *data_type = renamed;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse::parse_read;

    fn session() -> Session {
        Session { schema: "doc".to_owned(), user: "crate".to_owned(), version: "CrateDB 0" }
    }

    fn rewritten(sql: &str, args: &[Arg]) -> Rewritten {
        rewrite(parse_read(sql).expect(sql), args, &session()).expect(sql)
    }

    #[test]
    fn columns_are_called_as_cratedb_calls_them() {
        for (sql, names) in [
            ("SELECT BilledCost, c.Tags['org'], \"X\" FROM costs c", vec!["billedcost", "tags['org']", "X"]),
            ("SELECT COUNT(*), SUM(c.BilledCost) AS Total FROM costs c", vec!["count(*)", "total"]),
            ("SELECT SUM(c.BilledCost) FROM costs c", vec!["sum(billedcost)"]),
            (
                "SELECT current_user, current_schema, name FROM sys.cluster",
                vec!["current_user", "current_schema", "name"],
            ),
            ("SELECT 1, 1", vec!["1", "1"]),
            ("SELECT a FROM t UNION SELECT b FROM t", vec!["a"]),
            ("VALUES (1, 2)", vec!["col1", "col2"]),
        ] {
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            assert_eq!(rewritten(sql, &[]).columns, Some(names), "{sql}");
        }
        assert_eq!(rewritten("SELECT * FROM t", &[]).columns, None);
    }

    #[test]
    fn a_version_becomes_a_schema_of_its_own() {
        let sql = "SELECT a FROM costs FOR SYSTEM_TIME AS OF TIMESTAMP '2026-01-01' \
                   JOIN doc.costs FOR SYSTEM_TIME AS OF TIMESTAMP '2026-01-01' b ON true JOIN rejects ON true";
        let rewritten = rewritten(sql, &[]);
        assert_eq!(rewritten.versions.len(), 1);
        let text = rewritten.statement.to_string();
        assert!(text.contains("\"~0\".costs AS costs JOIN \"~0\".costs b"), "{text}");
    }

    #[test]
    fn a_missing_argument_is_named() {
        let error =
            rewrite(parse_read("SELECT ?, ?").expect("sql"), &[Arg::Null], &session()).err().expect("one is missing");
        assert!(error.to_string().contains("argument 2"), "{error}");
    }

    #[test]
    fn types_and_functions_are_renamed() {
        for (sql, engines) in [
            ("SELECT a::long, b::timestamptz", "SELECT a::BIGINT, b::TIMESTAMP(6)TZ"),
            ("SELECT a::numeric", "SELECT a::DECIMAL(38,18)"),
            ("SELECT date_format('%Y', a)", "SELECT date_format(a, '%Y')"),
            ("SELECT a WHERE a BETWEEN 1 AND 2", "SELECT a WHERE (a >= (1) AND a <= (2))"),
            ("SELECT current_schema()", "SELECT 'doc'"),
            ("SELECT format('%s - (%s)', a, b)", "SELECT concat('', a, ' - (', b, ')')"),
            (
                "SELECT a WHERE a IN (1, 2) AND b NOT IN ('x') AND c = ANY(ARRAY[])",
                "SELECT a WHERE (a = 1 OR a = 2) AND b NOT IN ('x') AND false",
            ),
        ] {
            let text = rewritten(sql, &[]).statement.to_string();
            assert_eq!(text.replace("TIMESTAMPTZ(6)", "TIMESTAMP(6)TZ"), engines, "{sql}");
        }
    }
}
