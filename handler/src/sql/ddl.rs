//! `CREATE TABLE`, `ALTER TABLE ... ADD COLUMN`, `DROP TABLE`, `REFRESH TABLE`: tokens in, what they
//! declare out, in CrateDB's words. What a cluster would do with its shards and indexes is read and
//! let be; what would change the meaning of the data and is not kept here (generated columns,
//! checks, full text) is refused.

use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::args::Arg;
use super::error::SqlError;
use super::rewrite::folded;
use super::statement::{NewColumn, Place, Write};
use super::value::{self, Growth, Misfit};
use crate::store::Declared;
use crate::store::declared::{MAX_COLUMNS, Object, Policy, Type};

/// How deep types may stand in each other.
const MAX_TYPE_DEPTH: usize = 20;
/// The longest name of a column or a key of one that is declared.
const MAX_NAME_BYTES: usize = 255;
/// The largest precision of a number.
const MAX_PRECISION: u8 = 38;
/// Beginnings of settings that are a matter of a cluster's shards.
const CLUSTERS_SETTINGS: [&str; 12] = [
    "allocation",
    "blocks",
    "codec",
    "mapping",
    "merge",
    "number_of_replicas",
    "refresh_interval",
    "routing",
    "store",
    "translog",
    "unassigned",
    "write",
];

impl From<ParserError> for SqlError {
    fn from(error: ParserError) -> Self {
        Self::Syntax(error.to_string())
    }
}

/// Takes an unquoted word that is no keyword of the parser's.
pub(super) fn word(parser: &mut Parser<'_>, expected: &str) -> bool {
    let there = matches!(&parser.peek_token_ref().token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected));
    if there {
        parser.advance_token();
    }
    there
}

/// A parenthesized list.
pub(super) fn list<T>(
    parser: &mut Parser<'_>,
    mut item: impl FnMut(&mut Parser<'_>) -> Result<T, SqlError>,
) -> Result<Vec<T>, SqlError> {
    parser.expect_token(&Token::LParen)?;
    let mut items = vec![item(parser)?];
    while parser.consume_token(&Token::Comma) {
        items.push(item(parser)?);
    }
    parser.expect_token(&Token::RParen)?;
    Ok(items)
}

pub(super) fn name(parser: &mut Parser<'_>) -> Result<String, SqlError> {
    Ok(folded(&parser.parse_identifier()?))
}

/// A column's name and the keys behind it: `a['b']['c']`.
pub(super) fn place(parser: &mut Parser<'_>) -> Result<Place, SqlError> {
    let column = name(parser)?;
    let mut keys = Vec::new();
    while parser.consume_token(&Token::LBracket) {
        keys.push(parser.parse_literal_string()?);
        parser.expect_token(&Token::RBracket)?;
    }
    Ok(Place { column, keys })
}

fn unsupported(text: impl Into<String>) -> SqlError {
    SqlError::Unsupported(text.into())
}

/// Behind `CREATE`.
pub(super) fn create(parser: &mut Parser<'_>) -> Result<Write, SqlError> {
    if !parser.parse_keyword(Keyword::TABLE) {
        let what = parser.peek_token().token.to_string().to_uppercase();
        return Err(unsupported(format!("CREATE {what} is not taken here: CREATE TABLE is")));
    }
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let table = parser.parse_object_name(false)?;
    if parser.peek_token_ref().token != Token::LParen {
        return Err(unsupported("CREATE TABLE takes a list of columns: fill the table by INSERT"));
    }
    let mut definition = Definition::default();
    list(parser, |parser| definition.element(parser))?;
    definition.clauses(parser)?;
    Ok(Write::CreateTable { table, declared: definition.declared()?, if_not_exists })
}

/// Behind `ALTER`.
pub(super) fn alter(parser: &mut Parser<'_>) -> Result<Write, SqlError> {
    let other = || unsupported("ALTER TABLE ... ADD COLUMN is what is taken here of ALTER");
    if !parser.parse_keyword(Keyword::TABLE) {
        return Err(other());
    }
    let table = parser.parse_object_name(false)?;
    let mut columns = Vec::new();
    loop {
        if !parser.parse_keyword(Keyword::ADD) {
            return Err(other());
        }
        let _ = parser.parse_keyword(Keyword::COLUMN);
        let place = place(parser)?;
        let data_type = data_type(parser, MAX_TYPE_DEPTH)?;
        if options(parser, &place.column, &data_type)? != Options::default() {
            return Err(unsupported("ADD COLUMN takes a name and a type: rows that are there could not keep to more"));
        }
        check_name(place.keys.last().unwrap_or(&place.column))?;
        columns.push(NewColumn { place, data_type });
        if !parser.consume_token(&Token::Comma) {
            return Ok(Write::AddColumns { table, columns });
        }
    }
}

/// Behind `DROP`.
pub(super) fn drop(parser: &mut Parser<'_>) -> Result<Write, SqlError> {
    if !parser.parse_keyword(Keyword::TABLE) {
        let what = parser.peek_token().token.to_string().to_uppercase();
        return Err(unsupported(format!("DROP {what} is not taken here: DROP TABLE is")));
    }
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    Ok(Write::DropTable { table: parser.parse_object_name(false)?, if_exists })
}

/// Behind `REFRESH`.
pub(super) fn refresh(parser: &mut Parser<'_>) -> Result<Write, SqlError> {
    parser.expect_keyword(Keyword::TABLE)?;
    let mut tables: Vec<ObjectName> = Vec::new();
    loop {
        tables.push(parser.parse_object_name(false)?);
        if parser.parse_keyword(Keyword::PARTITION) {
            list(parser, |parser| Ok(parser.parse_expr()?))?;
        }
        if !parser.consume_token(&Token::Comma) {
            return Ok(Write::Refresh(tables));
        }
    }
}

/// A table on its way.
#[derive(Default)]
struct Definition {
    declared: Declared,
    policy: Option<Policy>,
}

/// What is said behind a column's type.
#[derive(Default, PartialEq)]
struct Options {
    primary_key: bool,
    not_null: bool,
    default: Option<String>,
}

impl Definition {
    fn element(&mut self, parser: &mut Parser<'_>) -> Result<(), SqlError> {
        if parser.parse_keyword(Keyword::CONSTRAINT) {
            parser.parse_identifier()?;
        }
        if parser.parse_keywords(&[Keyword::PRIMARY, Keyword::KEY]) {
            return self.key(list(parser, name)?);
        }
        if parser.peek_keyword(Keyword::CHECK) {
            return Err(unsupported("CHECK is not taken here"));
        }
        if parser.peek_keyword(Keyword::INDEX)
            && matches!(parser.peek_nth_token_ref(2).token, Token::Word(ref word) if word.keyword == Keyword::USING)
        {
            return Err(unsupported("an INDEX over columns is not taken here"));
        }
        let column = name(parser)?;
        check_name(&column)?;
        let data_type = data_type(parser, MAX_TYPE_DEPTH)?;
        let options = options(parser, &column, &data_type)?;
        if self.declared.column(&column).is_some() {
            return Err(SqlError::Invalid(format!("column \"{column}\" specified more than once")));
        }
        let added = self.declared.add(&column, data_type);
        added.not_null = options.not_null;
        added.default = options.default;
        if options.primary_key {
            self.declared.primary_key.push(column);
        }
        Ok(())
    }

    fn key(&mut self, columns: Vec<String>) -> Result<(), SqlError> {
        if !self.declared.primary_key.is_empty() {
            return Err(SqlError::Invalid("multiple primary keys for one table are not allowed".to_owned()));
        }
        self.declared.primary_key = columns;
        Ok(())
    }

    /// Behind the columns.
    fn clauses(&mut self, parser: &mut Parser<'_>) -> Result<(), SqlError> {
        loop {
            if parser.parse_keywords(&[Keyword::PARTITIONED, Keyword::BY]) {
                self.declared.partitioned_by = list(parser, name)?;
            } else if word(parser, "clustered") {
                if parser.parse_keyword(Keyword::BY) {
                    for column in list(parser, name)? {
                        self.known(&column)?;
                    }
                }
                if parser.parse_keyword(Keyword::INTO) {
                    parser.parse_expr()?;
                    if !word(parser, "shards") {
                        return Err(SqlError::Syntax("INTO wants a number and SHARDS".to_owned()));
                    }
                }
            } else if parser.parse_keyword(Keyword::WITH) {
                for (setting, value) in settings(parser)? {
                    self.set(&setting, &value)?;
                }
            } else {
                return Ok(());
            }
        }
    }

    fn set(&mut self, setting: &str, value: &str) -> Result<(), SqlError> {
        if setting == "column_policy" {
            self.policy = match value.to_lowercase().as_str() {
                "dynamic" => Some(Policy::Dynamic),
                "strict" => Some(Policy::Strict),
                _ => return Err(SqlError::Invalid(format!("Invalid value for argument 'column_policy': {value}"))),
            };
            return Ok(());
        }
        let kind = setting.split('.').next().unwrap_or_default();
        if CLUSTERS_SETTINGS.contains(&kind) {
            return Ok(());
        }
        Err(SqlError::Invalid(format!("Setting '{setting}' is not supported")))
    }

    fn known(&self, column: &str) -> Result<(), SqlError> {
        self.declared.column(column).map(|_| ()).ok_or_else(|| SqlError::ColumnUnknown(column.to_owned()))
    }

    fn declared(mut self) -> Result<Declared, SqlError> {
        self.declared.policy = self.policy.unwrap_or(Policy::Strict);
        let wide = self.declared.width();
        if wide > MAX_COLUMNS {
            return Err(SqlError::Invalid(format!("Limit of total columns [{MAX_COLUMNS}] in table exceeded")));
        }
        let key = std::mem::take(&mut self.declared.primary_key);
        for (at, name) in key.iter().enumerate() {
            let column = self.declared.columns.iter_mut().find(|column| column.name == *name);
            let column = column.ok_or_else(|| SqlError::ColumnUnknown(name.clone()))?;
            if matches!(column.data_type, Type::Object(_) | Type::Array(_)) {
                let text = format!("Cannot use columns of type \"{}\" as primary key", column.data_type.name());
                return Err(SqlError::Unsupported(text));
            }
            if key[..at].contains(name) {
                return Err(SqlError::Invalid(format!("column \"{name}\" stands in the primary key twice")));
            }
            column.not_null = true;
        }
        for column in &self.declared.partitioned_by {
            self.known(column)?;
            if !key.is_empty() && !key.contains(column) {
                let text = format!(
                    "Cannot use non primary key column '{column}' in PARTITIONED BY clause if primary key is set on table"
                );
                return Err(SqlError::Invalid(text));
            }
        }
        self.declared.primary_key = key;
        Ok(self.declared)
    }
}

/// Behind a column's type.
fn options(parser: &mut Parser<'_>, column: &str, data_type: &Type) -> Result<Options, SqlError> {
    let mut options = Options::default();
    loop {
        if parser.parse_keyword(Keyword::CONSTRAINT) {
            parser.parse_identifier()?;
        }
        if parser.parse_keywords(&[Keyword::PRIMARY, Keyword::KEY]) {
            options.primary_key = true;
        } else if parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]) {
            options.not_null = true;
        } else if parser.parse_keyword(Keyword::NULL) {
        } else if parser.parse_keyword(Keyword::DEFAULT) {
            options.default = Some(default(parser, column, data_type)?);
        } else if parser.parse_keyword(Keyword::INDEX) {
            if !word(parser, "off") {
                parser.expect_keyword(Keyword::USING)?;
                let method = name(parser)?;
                if method != "plain" && method != "off" {
                    return Err(unsupported(format!("INDEX USING {method} is not taken here")));
                }
            }
        } else if word(parser, "storage") {
            parser.expect_keyword(Keyword::WITH)?;
            settings(parser)?;
        } else if parser.peek_keyword(Keyword::GENERATED) || parser.peek_keyword(Keyword::AS) {
            return Err(unsupported(format!("column {column} is generated, which is not taken here")));
        } else if parser.peek_keyword(Keyword::CHECK) {
            return Err(unsupported("CHECK is not taken here"));
        } else {
            return Ok(options);
        }
    }
}

/// `(a = 1, "b.c" = 'd')`.
fn settings(parser: &mut Parser<'_>) -> Result<Vec<(String, String)>, SqlError> {
    list(parser, |parser| {
        let mut setting = name(parser)?;
        while parser.consume_token(&Token::Period) {
            setting = format!("{setting}.{}", name(parser)?);
        }
        parser.expect_token(&Token::Eq)?;
        let value = parser.next_token();
        match value.token {
            Token::SingleQuotedString(text) | Token::Number(text, _) | Token::Placeholder(text) => Ok((setting, text)),
            Token::Word(word) => Ok((setting, word.value)),
            _ => Ok(parser.expected("a value", value)?),
        }
    })
}

/// An expression that says the same for every row of a statement.
fn default(parser: &mut Parser<'_>, column: &str, data_type: &Type) -> Result<String, SqlError> {
    // No more than a value: `NOT NULL` may follow.
    let expr = parser.parse_prefix()?;
    if let Some(value) = Arg::of_literal(&expr) {
        value::cast(&value, &mut data_type.clone(), &mut Growth::new(0)).map_err(Misfit::into_error)?;
        return Ok(expr.to_string());
    }
    let constant = match &expr {
        Expr::Identifier(Ident { value, quote_style: None, .. }) => {
            matches!(value.to_lowercase().as_str(), "current_user" | "session_user" | "user" | "current_schema")
        }
        Expr::Function(function) => matches!(
            function.name.to_string().to_lowercase().as_str(),
            "now" | "current_timestamp" | "current_date" | "curdate" | "current_user" | "current_schema"
        ),
        _ => false,
    };
    if constant {
        return Ok(expr.to_string());
    }
    Err(unsupported(format!("the default of column {column}: a literal or CURRENT_TIMESTAMP is taken")))
}

pub(super) fn check_name(column: &str) -> Result<(), SqlError> {
    if let Some(c) = column.chars().find(|c| matches!(c, '.' | '[' | ']' | '\n' | '\r')) {
        return Err(SqlError::ColumnName(format!("\"{}\" contains {c:?}", shortened(column))));
    }
    if column.is_empty() || column.len() > MAX_NAME_BYTES {
        return Err(SqlError::ColumnName(format!("a name is 1 to {MAX_NAME_BYTES} bytes long")));
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

/// A type, by its names.
fn data_type(parser: &mut Parser<'_>, depth: usize) -> Result<Type, SqlError> {
    if depth == 0 {
        return Err(SqlError::Syntax("types stand too deep in each other".to_owned()));
    }
    let token = parser.next_token();
    let Token::Word(ref first) = token.token else { return Ok(parser.expected("a type", token)?) };
    let named = first.value.to_lowercase();
    let mut found = match named.as_str() {
        "boolean" | "bool" => Type::Boolean,
        "char" if first.quote_style.is_some() => Type::Byte,
        "byte" | "tinyint" => Type::Byte,
        "short" | "smallint" | "int2" => Type::Smallint,
        "integer" | "int" | "int4" => Type::Integer,
        "long" | "bigint" | "int8" => Type::Bigint,
        "float" | "real" | "float4" => Type::Real,
        "double" => {
            word(parser, "precision");
            Type::Double
        }
        "float8" => Type::Double,
        "numeric" | "decimal" => numeric(parser)?,
        "text" | "string" => Type::Text,
        "varchar" | "char" => length(parser)?,
        "character" => {
            word(parser, "varying");
            length(parser)?
        }
        "ip" => Type::Ip,
        "timestamptz" => Type::TimestampTz,
        "timestamp" => {
            let with = parser.parse_keyword(Keyword::WITH);
            if with || word(parser, "without") {
                parser.expect_keywords(&[Keyword::TIME, Keyword::ZONE])?;
            }
            if with { Type::TimestampTz } else { Type::Timestamp }
        }
        "object" => Type::Object(object(parser, depth)?),
        "array" => {
            parser.expect_token(&Token::LParen)?;
            let item = data_type(parser, depth - 1)?;
            parser.expect_token(&Token::RParen)?;
            array(item)?
        }
        "date" | "time" | "timetz" | "interval" => {
            return Err(SqlError::Invalid(format!("Type `{named}` does not support storage")));
        }
        _ => return Err(unsupported(format!("type {} is not taken here", shortened(&first.value)))),
    };
    while parser.consume_token(&Token::LBracket) {
        parser.expect_token(&Token::RBracket)?;
        found = array(found)?;
    }
    Ok(found)
}

fn array(item: Type) -> Result<Type, SqlError> {
    match item {
        Type::Array(_) => Err(unsupported("an array of arrays is not taken here")),
        item => Ok(Type::Array(Box::new(item))),
    }
}

fn numeric(parser: &mut Parser<'_>) -> Result<Type, SqlError> {
    if parser.peek_token_ref().token != Token::LParen {
        return Err(unsupported("NUMERIC storage is only supported if precision and scale are specified"));
    }
    let numbers = list(parser, |parser| Ok(parser.parse_literal_uint()?))?;
    let wrong =
        || SqlError::Invalid(format!("NUMERIC wants a precision of 1 to {MAX_PRECISION} and a scale within it"));
    let number = |at: usize| numbers.get(at).map_or(Some(0), |number| u8::try_from(*number).ok());
    let (Some(precision), Some(scale)) = (number(0), number(1)) else { return Err(wrong()) };
    match i8::try_from(scale) {
        Ok(signed) if (1..=MAX_PRECISION).contains(&precision) && scale <= precision && numbers.len() <= 2 => {
            Ok(Type::Numeric(precision, signed))
        }
        _ => Err(wrong()),
    }
}

fn length(parser: &mut Parser<'_>) -> Result<Type, SqlError> {
    if parser.peek_token_ref().token != Token::LParen {
        return Ok(Type::Text);
    }
    let lengths = list(parser, |parser| Ok(parser.parse_literal_uint()?))?;
    match lengths.as_slice() {
        [length] if *length > 0 => u32::try_from(*length).ok().map(Type::Varchar),
        _ => None,
    }
    .ok_or_else(|| SqlError::Invalid("a text's length is a number from 1".to_owned()))
}

fn object(parser: &mut Parser<'_>, depth: usize) -> Result<Object, SqlError> {
    let mut object = Object::default();
    if parser.consume_token(&Token::LParen) {
        let policy = name(parser)?;
        object.policy = match policy.as_str() {
            "dynamic" => Policy::Dynamic,
            "strict" => Policy::Strict,
            "ignored" => Policy::Ignored,
            _ => return Err(SqlError::Syntax(format!("OBJECT({policy}): DYNAMIC, STRICT or IGNORED is meant"))),
        };
        parser.expect_token(&Token::RParen)?;
    }
    if parser.parse_keyword(Keyword::AS) {
        for (key, data_type) in list(parser, |parser| Ok((name(parser)?, data_type(parser, depth - 1)?)))? {
            check_name(&key)?;
            object.keys.insert(key, data_type);
        }
    }
    Ok(object)
}
