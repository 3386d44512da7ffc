//! `INSERT` as a change of a table's rows: rows of values in, columns as they are stored out, and
//! for each row what became of it. A row whose key is there fails, is passed over, or changes the
//! row that is there, one after the other when a key comes more than once.
//!
//! Memory: the rows of the statement as columns, their keys, and the rows that are there for them.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{filter_record_batch, interleave_record_batch, take_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::DFSchema;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{AccessExpr, Expr, Ident, VisitMut, VisitorMut};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::args::Arg;
use super::assign::{Assigned, Plans, must_not_be_null, of_engine, seen, seen_schema, wrong};
use super::change::goes_on;
use super::ddl::check_name;
use super::encode;
use super::error::SqlError;
use super::statement::{Assignment, Conflict};
use super::value::{self, Builder, Growth, Misfit, Value};
use crate::store::declared::{Policy, Type};
use crate::store::{BatchError, Change, Declared, Ended, TableInfo};

/// What names the new row in `DO UPDATE`.
const EXCLUDED: &str = "excluded";

/// A value of a row as the statement has it.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    Value(Arg),
    /// The n-th argument.
    Arg(usize),
    /// The n-th of the values that were worked out for each set of arguments.
    Computed(usize),
}

/// Where rows come from; they are read anew with each try.
pub(super) enum Given {
    /// The statement's rows of values, once for each set of arguments.
    Values { rows: Vec<Vec<Cell>>, args: ArgSets, computed: Vec<Vec<Arg>> },
    /// The rows of a query.
    Batch(RecordBatch),
}

/// The arguments of a statement.
#[derive(Clone)]
pub(super) enum ArgSets {
    One(Arc<[Arg]>),
    /// Those of a bulk request: an array of arrays, as it was sent.
    Bulk(Arc<RawValue>),
}

impl ArgSets {
    pub(super) fn is_bulk(&self) -> bool {
        matches!(self, Self::Bulk(_))
    }

    /// Every set.
    pub(super) fn all(&self) -> Result<Vec<Vec<Arg>>, SqlError> {
        let mut sets = Vec::new();
        self.each(|set| {
            sets.push(set.to_vec());
            Ok(())
        })?;
        Ok(sets)
    }

    /// Calls with every set.
    pub(super) fn each(&self, mut call: impl FnMut(&[Arg]) -> Result<(), SqlError>) -> Result<(), SqlError> {
        let raw = match self {
            Self::One(args) => return call(args),
            Self::Bulk(raw) => raw,
        };
        for set in split(raw)? {
            let set: Vec<Arg> = split(set)?.into_iter().map(Arg::from_json).collect::<Result<_, _>>()?;
            call(&set)?;
        }
        Ok(())
    }
}

/// The values of an array, as they were sent.
fn split(array: &RawValue) -> Result<Vec<&RawValue>, SqlError> {
    let wrong = |_| SqlError::Invalid("bulk_args is an array of arrays".to_owned());
    serde_json::from_str(array.get()).map_err(wrong)
}

impl Given {
    /// Calls with the number of the set of arguments and the values of every row.
    fn each(&self, mut call: impl FnMut(usize, Vec<Arg>) -> Result<(), SqlError>) -> Result<(), SqlError> {
        match self {
            Self::Values { rows, args, computed } => {
                let mut number = 0;
                args.each(|set| {
                    for row in rows {
                        let value = |cell: &Cell| match cell {
                            Cell::Value(arg) => Ok(arg.clone()),
                            Cell::Arg(at) => set.get(*at).cloned().ok_or_else(|| too_few(at + 1, set.len())),
                            Cell::Computed(at) => {
                                Ok(computed.get(number).and_then(|set| set.get(*at)).cloned().unwrap_or(Arg::Null))
                            }
                        };
                        call(number, row.iter().map(value).collect::<Result<_, _>>()?)?;
                    }
                    number += 1;
                    Ok(())
                })
            }
            Self::Batch(batch) => {
                let columns = batch.columns().iter().map(encode::args).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
                let mut columns: Vec<_> = columns.into_iter().map(Vec::into_iter).collect();
                for _ in 0..batch.num_rows() {
                    call(0, columns.iter_mut().map(|column| column.next().unwrap_or(Arg::Null)).collect())?;
                }
                Ok(())
            }
        }
    }

    /// How many sets of arguments there are.
    fn sets(&self) -> Result<usize, SqlError> {
        match self {
            Self::Values { args: ArgSets::Bulk(raw), .. } => Ok(split(raw)?.len()),
            Self::Values { .. } | Self::Batch(_) => Ok(1),
        }
    }
}

pub(super) fn too_few(number: usize, args: usize) -> SqlError {
    SqlError::Invalid(format!("the statement wants argument {number}, and args holds {args}"))
}

/// `INSERT`.
pub(super) struct Insertion {
    /// The columns that are named; the table's first ones when none is.
    columns: Option<Vec<String>>,
    given: Given,
    conflict: Conflict,
    /// What is put into columns that the statement does not name.
    defaults: HashMap<String, Arg>,
    /// Whether one bad row spoils the statement, or is told beside the others.
    each_by_itself: bool,
    context: Option<SessionContext>,
    stop: CancellationToken,
    attempt: Option<Attempt>,
}

/// What one try knows.
struct Attempt {
    declared: Declared,
    growth: Growth,
    is_new: bool,
    /// The new rows that are good, as they are stored.
    rows: RecordBatch,
    /// For each of them its set of arguments.
    sets: Vec<usize>,
    /// For each set how many rows it stored, or what is wrong with one.
    results: Vec<Result<u64, SqlError>>,
    key: Option<Key>,
    assigned: Option<Assigned>,
    /// The rows as they stand in the table now.
    stored: Option<RecordBatch>,
}

/// The rows' keys.
struct Key {
    /// Names in the files.
    columns: Vec<String>,
    converter: RowConverter,
    of_rows: Vec<Box<[u8]>>,
    wanted: HashSet<Box<[u8]>>,
    /// Those that are in the table.
    there: HashSet<Box<[u8]>>,
    /// The rows that are there for them, if they are to be changed.
    taken: Vec<RecordBatch>,
}

impl Insertion {
    /// `context`: `DO UPDATE` wants one.
    pub(super) fn new(
        columns: Option<Vec<String>>,
        given: Given,
        conflict: Conflict,
        defaults: HashMap<String, Arg>,
        context: Option<SessionContext>,
        stop: CancellationToken,
    ) -> Self {
        let each_by_itself = matches!(&given, Given::Values { args, .. } if args.is_bulk());
        Self { columns, given, conflict, defaults, each_by_itself, context, stop, attempt: None }
    }

    /// What became of each set of arguments.
    pub(super) fn results(self) -> Vec<Result<u64, SqlError>> {
        self.attempt.map(|attempt| attempt.results).unwrap_or_default()
    }

    /// Other rows, for the next change of the kind.
    pub(super) fn refill(&mut self, batch: RecordBatch) {
        self.given = Given::Batch(batch);
    }

    /// How many rows the last change has stored.
    pub(super) fn stored(&self) -> u64 {
        let results = self.attempt.iter().flat_map(|attempt| &attempt.results);
        results.filter_map(|result| result.as_ref().ok()).sum()
    }

    /// The rows that the last change has stored, as statements see them.
    pub(super) fn returned(&self) -> Result<Vec<RecordBatch>, SqlError> {
        let stored = self.attempt.iter().filter_map(|attempt| Some((attempt.stored.as_ref()?, &attempt.declared)));
        stored.map(|(rows, declared)| seen(rows, Some(declared)).map_err(wrong)).collect()
    }

    fn plan(&self, table: &TableInfo) -> Result<(Attempt, SchemaRef), SqlError> {
        let Some(mut declared) = table.declared.clone() else {
            return Err(SqlError::inaccessible(&table.name, "INSERT"));
        };
        check_conflict(&self.conflict, &declared)?;
        let mut growth = Growth::new(declared.width());
        let targets = self.targets(&mut declared, &mut growth)?;
        let mut filled = Filled::new(&declared, self.given.sets()?);
        self.given.each(|set, values| {
            if filled.sets.len().is_multiple_of(1024) {
                goes_on(&self.stop)?;
            }
            let values = match (&self.columns, values.len()) {
                (None, given) if given > targets.len() && !self.each_by_itself => {
                    let text = format!(
                        "INSERT statement contains a VALUES clause with too many elements ({given}), expected ({})",
                        targets.len()
                    );
                    return Err(SqlError::Invalid(text));
                }
                (Some(_), given) if given != targets.len() => {
                    let text =
                        format!("Invalid number of values: Got {} columns specified but {given} values", targets.len());
                    return Err(SqlError::Invalid(text));
                }
                _ => values,
            };
            match filled.cast(&targets, values, &self.defaults, &mut declared, &mut growth) {
                Ok(values) => filled.push(set, &values),
                Err(Misfit::Row(error)) if self.each_by_itself => filled.results[set] = Err(error),
                Err(misfit) => return Err(misfit.into_error()),
            }
            Ok(())
        })?;
        // After the rows: what they add to an object, `excluded` has.
        let assigned = self.assigned(table.name.as_str(), &mut declared, &mut growth)?;
        let schema = declared.stored_schema();
        let (rows, sets, results) = filled.finish(&schema)?;
        let key = if declared.primary_key.is_empty() { None } else { Some(Key::new(&declared, &rows)?) };
        let is_new = table.declared.as_ref() != Some(&declared);
        Ok((Attempt { declared, growth, is_new, rows, sets, results, key, assigned, stored: None }, schema))
    }

    /// For each value of a row the place of its column; nothing for one that is null in every row
    /// and that the table has not. Columns that the table takes are added.
    fn targets(&self, declared: &mut Declared, growth: &mut Growth) -> Result<Vec<Option<usize>>, SqlError> {
        let Some(names) = &self.columns else { return Ok((0..declared.columns.len()).map(Some).collect()) };
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                return Err(SqlError::Invalid(format!("column \"{name}\" specified more than once")));
            }
        }
        let is_new = |name: &String| declared.column(name).is_none();
        let new: Vec<usize> = (0..names.len()).filter(|at| is_new(&names[*at])).collect();
        if let Some(at) = new.first()
            && declared.policy == Policy::Strict
        {
            return Err(SqlError::ColumnUnknown(names[*at].clone()));
        }
        let mut found: HashMap<usize, Type> = HashMap::new();
        match &self.given {
            Given::Batch(batch) => {
                let types = new.iter().filter_map(|at| Some((*at, of_engine(batch.columns().get(*at)?.data_type())?)));
                found.extend(types);
            }
            Given::Values { .. } if !new.is_empty() => self.given.each(|_, values| {
                for at in &new {
                    if !found.contains_key(at)
                        && let Some(value) = values.get(*at)
                        && let Some(kind) = value::infer(value)?
                    {
                        found.insert(*at, kind);
                    }
                }
                Ok(())
            })?,
            Given::Values { .. } => {}
        }
        for at in new {
            if let Some(data_type) = found.remove(&at) {
                check_name(&names[at])?;
                growth.take().map_err(Misfit::into_error)?;
                declared.add(&names[at], data_type);
            }
        }
        Ok(names.iter().map(|name| declared.columns.iter().position(|column| column.name == *name)).collect())
    }

    /// What `DO UPDATE` sets, over the columns of the row that is there and then of the new one.
    fn assigned(
        &self,
        table: &str,
        declared: &mut Declared,
        growth: &mut Growth,
    ) -> Result<Option<Assigned>, SqlError> {
        let (Conflict::Updates { assignments, .. }, Some(context)) = (&self.conflict, &self.context) else {
            return Ok(None);
        };
        let columns = seen_schema(declared);
        let there = DFSchema::try_from_qualified_schema(table, &columns)?;
        let schema = there.join(&DFSchema::try_from_qualified_schema(EXCLUDED, &columns)?)?;
        let qualified: Vec<Assignment> = assignments
            .iter()
            .map(|Assignment { place, value }| {
                let mut value = value.clone();
                let _ = value.visit(&mut Qualify(table));
                Assignment { place: place.clone(), value }
            })
            .collect();
        Assigned::plan(&qualified, declared, growth, &Plans { context, schema }).map(Some)
    }
}

/// A column without a table is one of the row that is there.
struct Qualify<'a>(&'a str);

impl VisitorMut for Qualify<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) => {
                *expr = Expr::CompoundIdentifier(vec![Ident::with_quote('"', self.0), name.clone()]);
            }
            // `excluded.o['a']`: what stands before the point names the row.
            Expr::CompoundFieldAccess { root, access_chain } => {
                if let (Expr::Identifier(row), Some(AccessExpr::Dot(Expr::Identifier(column)))) =
                    (&**root, access_chain.first())
                {
                    **root = Expr::CompoundIdentifier(vec![row.clone(), column.clone()]);
                    access_chain.remove(0);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn check_conflict(conflict: &Conflict, declared: &Declared) -> Result<(), SqlError> {
    let key = match conflict {
        Conflict::Fails => return Ok(()),
        Conflict::Nothing { key } if key.is_empty() => return Ok(()),
        Conflict::Nothing { key } | Conflict::Updates { key, .. } => key,
    };
    let primary = &declared.primary_key;
    if let Some(unknown) = key.iter().find(|name| declared.column(name).is_none()) {
        return Err(SqlError::ColumnUnknown(unknown.clone()));
    }
    if key.len() != primary.len() || primary.iter().any(|name| !key.contains(name)) {
        let text = format!(
            "Number of conflict targets ([{}]) did not match the number of primary key columns ([{}])",
            key.join(", "),
            primary.join(", ")
        );
        return Err(SqlError::Invalid(text));
    }
    Ok(())
}

/// Rows on their way into columns.
struct Filled {
    builders: Vec<Builder>,
    sets: Vec<usize>,
    results: Vec<Result<u64, SqlError>>,
}

impl Filled {
    fn new(declared: &Declared, sets: usize) -> Self {
        let builders = declared.columns.iter().map(|column| Builder::new(&column.data_type)).collect();
        Self { builders, sets: Vec::new(), results: (0..sets).map(|_| Ok(0)).collect() }
    }

    /// A row's values, of every column of the table.
    fn cast(
        &self,
        targets: &[Option<usize>],
        given: Vec<Arg>,
        defaults: &HashMap<String, Arg>,
        declared: &mut Declared,
        growth: &mut Growth,
    ) -> Result<Vec<Value>, Misfit> {
        let mut args: Vec<Option<Arg>> = vec![None; declared.columns.len()];
        for (target, arg) in targets.iter().zip(given) {
            if let Some(place) = target.and_then(|at| args.get_mut(at)) {
                *place = Some(arg);
            }
        }
        let key = &declared.primary_key;
        let mut values = Vec::with_capacity(args.len());
        for (column, arg) in declared.columns.iter_mut().zip(args) {
            growth.enter(&column.name);
            let arg = arg.or_else(|| defaults.get(&column.name).cloned()).unwrap_or(Arg::Null);
            let value = value::cast(&arg, &mut column.data_type, growth)?;
            if column.not_null && value == Value::Null {
                let error = must_not_be_null(&column.name);
                return Err(if key.contains(&column.name) { Misfit::Statement(error) } else { Misfit::Row(error) });
            }
            values.push(value);
        }
        Ok(values)
    }

    fn push(&mut self, set: usize, values: &[Value]) {
        for (builder, value) in self.builders.iter_mut().zip(values) {
            builder.push(value);
        }
        self.sets.push(set);
    }

    /// The rows with the columns of `schema`: those it begins with, and others that are null.
    #[expect(clippy::type_complexity, reason = "its three parts go their own ways at once")]
    fn finish(self, schema: &SchemaRef) -> Result<(RecordBatch, Vec<usize>, Vec<Result<u64, SqlError>>), SqlError> {
        let Self { builders, sets, results } = self;
        let mut columns = builders.into_iter().map(Builder::finish).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        let others = schema.fields().iter().skip(columns.len());
        columns.extend(others.map(|field| new_null_array(field.data_type(), sets.len())));
        let count = RecordBatchOptions::new().with_row_count(Some(sets.len()));
        let rows = RecordBatch::try_new_with_options(schema.clone(), columns, &count).map_err(wrong)?;
        Ok((rows, sets, results))
    }
}

impl Key {
    fn new(declared: &Declared, rows: &RecordBatch) -> Result<Self, SqlError> {
        let mut columns = Vec::new();
        let mut fields = Vec::new();
        for name in &declared.primary_key {
            let column = declared.column(name).ok_or_else(|| SqlError::ColumnUnknown(name.clone()))?;
            columns.push(column.stored.to_string());
            fields.push(SortField::new(column.data_type.stored()));
        }
        let converter = RowConverter::new(fields).map_err(wrong)?;
        let mut key = Self {
            columns,
            converter,
            of_rows: Vec::new(),
            wanted: HashSet::new(),
            there: HashSet::new(),
            taken: Vec::new(),
        };
        key.of_rows = key.of(rows)?;
        key.wanted = key.of_rows.iter().cloned().collect();
        Ok(key)
    }

    fn of(&self, rows: &RecordBatch) -> Result<Vec<Box<[u8]>>, SqlError> {
        let column = |name: &String| {
            let column = rows.column_by_name(name).cloned();
            column.ok_or_else(|| SqlError::Engine(format!("the table's key {name} is not in its files")))
        };
        let columns = self.columns.iter().map(column).collect::<Result<Vec<ArrayRef>, _>>()?;
        let rows = self.converter.convert_columns(&columns).map_err(wrong)?;
        Ok(rows.iter().map(|row| row.data().into()).collect())
    }
}

impl Change for Insertion {
    fn begin(&mut self, table: &TableInfo) -> Result<SchemaRef, BatchError> {
        let (attempt, schema) = self.plan(table)?;
        self.attempt = Some(attempt);
        Ok(schema)
    }

    fn looks_at(&self) -> Option<Vec<String>> {
        let key = self.attempt.as_ref()?.key.as_ref()?;
        (!key.wanted.is_empty()).then(|| key.columns.clone())
    }

    fn touches(&mut self, rows: &RecordBatch) -> Result<bool, BatchError> {
        let Some(key) = self.attempt.as_mut().and_then(|attempt| attempt.key.as_mut()) else { return Ok(false) };
        goes_on(&self.stop)?;
        let there: Vec<_> = key.of(rows)?.into_iter().filter(|row| key.wanted.contains(row)).collect();
        let some = !there.is_empty();
        key.there.extend(there);
        Ok(some && matches!(self.conflict, Conflict::Updates { .. }))
    }

    fn rewrite(&mut self, rows: RecordBatch) -> Result<RecordBatch, BatchError> {
        let Some(key) = self.attempt.as_mut().and_then(|attempt| attempt.key.as_mut()) else { return Ok(rows) };
        goes_on(&self.stop)?;
        let wanted: Vec<bool> = key.of(&rows)?.iter().map(|row| key.wanted.contains(row)).collect();
        key.taken.push(filter_record_batch(&rows, &wanted.clone().into())?);
        let others: Vec<bool> = wanted.into_iter().map(|wanted| !wanted).collect();
        Ok(filter_record_batch(&rows, &others.into())?)
    }

    fn end(&mut self) -> Result<Ended, BatchError> {
        let Some(attempt) = &mut self.attempt else { return Ok(Ended::default()) };
        let rows = match (&self.conflict, attempt.key.is_some()) {
            (Conflict::Updates { .. }, true) => attempt.merged()?,
            (conflict, _) => {
                let passes_over = matches!(conflict, Conflict::Nothing { .. });
                attempt.added(passes_over, self.each_by_itself)?
            }
        };
        let declared = (attempt.is_new || attempt.growth.grown).then(|| attempt.declared.clone());
        attempt.stored = Some(rows.clone());
        let rows = if rows.num_rows() == 0 { Vec::new() } else { vec![rows] };
        // Nothing is stored, so nothing has been declared either.
        Ok(Ended { declared: declared.filter(|_| !rows.is_empty()), rows })
    }
}

impl Attempt {
    fn count(&mut self, row: usize) {
        if let Some(Ok(count)) = self.results.get_mut(self.sets[row]) {
            *count += 1;
        }
    }

    /// The rows whose key is neither there nor an earlier row's.
    fn added(&mut self, passes_over: bool, each_by_itself: bool) -> Result<RecordBatch, SqlError> {
        let mut good: Vec<bool> = vec![true; self.rows.num_rows()];
        if let Some(key) = &mut self.key {
            let mut seen = std::mem::take(&mut key.there);
            for (good, key) in good.iter_mut().zip(&key.of_rows) {
                *good = seen.insert(key.clone());
            }
        }
        for (row, good) in good.iter().enumerate() {
            if *good {
                self.count(row);
            } else if !passes_over {
                if !each_by_itself {
                    return Err(SqlError::Duplicate);
                }
                self.results[self.sets[row]] = Err(SqlError::Duplicate);
            }
        }
        filter_record_batch(&self.rows, &good.into()).map_err(wrong)
    }

    /// The rows that are there or new, each key's as the last of its new rows leaves it.
    fn merged(&mut self) -> Result<RecordBatch, SqlError> {
        let Some(key) = self.key.take() else { return Ok(self.rows.clone()) };
        // The new rows, those that are there, and round by round what becomes of them.
        let mut batches = vec![self.rows.clone()];
        let mut current: HashMap<Box<[u8]>, (usize, usize)> = HashMap::new();
        for taken in &key.taken {
            for (row, of_row) in key.of(taken)?.into_iter().enumerate() {
                current.insert(of_row, (batches.len(), row));
            }
            batches.push(taken.clone());
        }
        let mut pending: Vec<usize> = (0..self.rows.num_rows()).collect();
        while !pending.is_empty() {
            let mut now = HashSet::new();
            let (round, later): (Vec<usize>, Vec<usize>) =
                pending.into_iter().partition(|row| now.insert(key.of_rows[*row].clone()));
            pending = later;
            let mut changed = Vec::new();
            for row in round {
                self.count(row);
                match current.get(&key.of_rows[row]) {
                    Some(place) => changed.push((row, *place)),
                    None => drop(current.insert(key.of_rows[row].clone(), (0, row))),
                }
            }
            if changed.is_empty() {
                continue;
            }
            let places: Vec<(usize, usize)> = changed.iter().map(|(_, place)| *place).collect();
            let there = interleave_record_batch(&batches.iter().collect::<Vec<_>>(), &places).map_err(wrong)?;
            let new = changed.iter().map(|(row, _)| u32::try_from(*row).unwrap_or_default());
            let new = take_record_batch(&self.rows, &UInt32Array::from_iter_values(new)).map_err(wrong)?;
            for (at, (row, _)) in changed.iter().enumerate() {
                current.insert(key.of_rows[*row].clone(), (batches.len(), at));
            }
            batches.push(self.updated(&there, &new)?);
        }
        let mut places: Vec<(usize, usize)> = current.into_values().collect();
        places.sort_unstable();
        interleave_record_batch(&batches.iter().collect::<Vec<_>>(), &places).map_err(wrong)
    }

    fn updated(&mut self, there: &RecordBatch, new: &RecordBatch) -> Result<RecordBatch, SqlError> {
        let Some(assigned) = &self.assigned else { return Ok(there.clone()) };
        let shown = seen(there, Some(&self.declared)).map_err(wrong)?;
        let excluded = seen(new, Some(&self.declared)).map_err(wrong)?;
        let fields: Vec<_> = shown.schema().fields().iter().chain(excluded.schema().fields()).cloned().collect();
        let columns = shown.columns().iter().chain(excluded.columns()).cloned().collect();
        let both = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(wrong)?;
        assigned.apply(there, &both, &mut self.declared, &mut self.growth)
    }
}
