//! `INSERT`, `UPDATE` and `DELETE`: tokens in, their parts out. Expressions and queries in them are
//! of the same list as those of a query that reads.

use datafusion::sql::sqlparser::ast::{Expr, Ident, SelectItem};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::ddl::{list, name, place};
use super::error::SqlError;
use super::parse::reads;
use super::statement::{Assignment, Conflict, Delete, Insert, Source, Update, Write};

/// Behind `INSERT`.
pub(super) fn insert(parser: &mut Parser<'_>) -> Result<Write, SqlError> {
    parser.expect_keyword(Keyword::INTO)?;
    let table = parser.parse_object_name(false)?;
    let columns = match (&parser.peek_token_ref().token, &parser.peek_nth_token_ref(1).token) {
        (Token::LParen, Token::Word(word)) if !begins_query(word.keyword) || word.quote_style.is_some() => {
            Some(list(parser, name)?)
        }
        _ => None,
    };
    let source = if parser.parse_keyword(Keyword::VALUES) {
        let mut rows = vec![list(parser, expression)?];
        while parser.consume_token(&Token::Comma) {
            rows.push(list(parser, expression)?);
        }
        Source::Values(rows)
    } else {
        let query = parser.parse_query()?;
        reads(&*query)?;
        Source::Query(query)
    };
    let conflict = conflict(parser)?;
    let returning = returning(parser)?;
    Ok(Write::Insert(Insert { table, columns, source, conflict, returning }))
}

fn begins_query(keyword: Keyword) -> bool {
    matches!(keyword, Keyword::SELECT | Keyword::WITH | Keyword::VALUES)
}

fn conflict(parser: &mut Parser<'_>) -> Result<Conflict, SqlError> {
    if !parser.parse_keyword(Keyword::ON) {
        return Ok(Conflict::Fails);
    }
    parser.expect_keyword(Keyword::CONFLICT)?;
    let key = if parser.peek_token_ref().token == Token::LParen { list(parser, name)? } else { Vec::new() };
    parser.expect_keyword(Keyword::DO)?;
    if parser.parse_keyword(Keyword::NOTHING) {
        return Ok(Conflict::Nothing { key });
    }
    parser.expect_keyword(Keyword::UPDATE)?;
    if key.is_empty() {
        return Err(SqlError::Syntax("ON CONFLICT wants the primary key's columns before DO UPDATE".to_owned()));
    }
    let assignments = assignments(parser)?;
    if parser.peek_keyword(Keyword::WHERE) {
        return Err(SqlError::Syntax("DO UPDATE takes no WHERE".to_owned()));
    }
    Ok(Conflict::Updates { key, assignments })
}

/// Behind `UPDATE`.
pub(super) fn update(parser: &mut Parser<'_>) -> Result<Write, SqlError> {
    let table = parser.parse_object_name(false)?;
    let alias = alias(parser, Keyword::SET)?;
    let assignments = assignments(parser)?;
    let condition = condition(parser)?;
    let returning = returning(parser)?;
    Ok(Write::Update(Update { table, alias, assignments, condition, returning }))
}

/// Behind `DELETE`.
pub(super) fn delete(parser: &mut Parser<'_>) -> Result<Write, SqlError> {
    parser.expect_keyword(Keyword::FROM)?;
    let table = parser.parse_object_name(false)?;
    let alias = alias(parser, Keyword::WHERE)?;
    let condition = condition(parser)?;
    Ok(Write::Delete(Delete { table, alias, condition }))
}

fn alias(parser: &mut Parser<'_>, next: Keyword) -> Result<Option<Ident>, SqlError> {
    let named = parser.parse_keyword(Keyword::AS);
    let follows = matches!(&parser.peek_token_ref().token, Token::Word(word) if word.keyword != next);
    if named || follows { Ok(Some(parser.parse_identifier()?)) } else { Ok(None) }
}

fn assignments(parser: &mut Parser<'_>) -> Result<Vec<Assignment>, SqlError> {
    parser.expect_keyword(Keyword::SET)?;
    let mut assignments: Vec<Assignment> = Vec::new();
    loop {
        let place = place(parser)?;
        parser.expect_token(&Token::Eq)?;
        if assignments.iter().any(|known| known.place == place) {
            return Err(SqlError::Invalid(format!("column \"{}\" is set twice", place.column)));
        }
        assignments.push(Assignment { place, value: expression(parser)? });
        if !parser.consume_token(&Token::Comma) {
            return Ok(assignments);
        }
    }
}

fn condition(parser: &mut Parser<'_>) -> Result<Option<Expr>, SqlError> {
    if parser.parse_keyword(Keyword::WHERE) { expression(parser).map(Some) } else { Ok(None) }
}

fn expression(parser: &mut Parser<'_>) -> Result<Expr, SqlError> {
    let expr = parser.parse_expr()?;
    reads(&expr)?;
    Ok(expr)
}

fn returning(parser: &mut Parser<'_>) -> Result<Vec<SelectItem>, SqlError> {
    if !parser.parse_keyword(Keyword::RETURNING) {
        return Ok(Vec::new());
    }
    let items = parser.parse_projection()?;
    reads(&items)?;
    Ok(items)
}
