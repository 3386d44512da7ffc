//! Rows on their way from a decoder to the converter: fields of text or null, in [`Chunk`]s, whatever format they
//! were written in. A decoder runs in a task or a thread of its own; a bounded channel makes it wait for its reader.

/// Chunks waiting for the converter: one ready, one being filled.
pub(crate) const N_READY_CHUNKS: usize = 2;
/// A chunk is full when it has this many bytes of text.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// What a decoder sends.
pub(crate) enum Message {
    /// Some rows.
    Chunk(Chunk),
    /// The report was read to its end.
    End,
}

/// What is wrong with a row as a whole, whatever its columns hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not UTF-8.
    NotUtf8,
    /// It is no JSON object, or one that is not well-formed.
    NotAnObject,
    /// A column stands twice in it.
    DuplicateColumn,
    /// It is longer than [`super::Limits::max_record_bytes`], though what it was read from is not.
    TooLong,
}

/// What a field without text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Empty {
    /// The only way to write a null.
    #[default]
    Null,
    /// A text, beside which there are nulls.
    Text,
}

/// Rows: their text, and where in it their fields are.
#[derive(Default)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    bounds: Vec<Bound>,
    records: Vec<Record>,
    empty: Empty,
    is_utf8: bool,
}

/// Where a field is.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    start: u32,
    end: u32,
}

/// Where the fields of a row are.
pub(super) struct Record {
    /// Where its bounds start.
    pub(super) bounds_at: usize,
    /// The fields it had; no more than the header's are kept.
    pub(super) n_fields: usize,
    /// Its only field is then the row as it stood.
    pub(super) fault: Option<Fault>,
}

/// One row of a [`Chunk`].
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    bytes: &'a [u8],
    bounds: &'a [Bound],
    empty: Empty,
    /// The fields it had; no more than the header's are kept.
    pub(crate) n_fields: usize,
    /// What is wrong with it; its only field is then the row as it stood.
    pub(crate) fault: Option<Fault>,
}

impl Bound {
    /// The end of a field that is null. A chunk and a record are far below 4 GiB: see
    /// [`super::Limits::max_record_bytes`].
    const NULL: u32 = u32::MAX;

    pub(super) fn new(start: usize, end: usize) -> Self {
        let at = |position: usize| u32::try_from(position).unwrap_or(u32::MAX);
        Self { start: at(start), end: at(end) }
    }

    /// A null that stands behind so many bytes.
    fn null(start: usize) -> Self {
        Self { end: Self::NULL, ..Self::new(start, start) }
    }

    /// The same field in a text that lacks the first `bytes`.
    pub(super) fn earlier(self, bytes: usize) -> Self {
        let bytes = Self::new(bytes, bytes).start;
        Self { start: self.start - bytes, end: self.end - bytes }
    }

    fn end(self) -> u32 {
        if self.end == Self::NULL { self.start } else { self.end }
    }

    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end() as usize]
    }
}

impl Chunk {
    /// The text is looked at in one go for whether it is UTF-8: a field by itself costs many times as much.
    pub(super) fn new(bytes: Vec<u8>, bounds: Vec<Bound>, records: Vec<Record>, empty: Empty) -> Self {
        let is_utf8 = std::str::from_utf8(&bytes).is_ok();
        Self { bytes, bounds, records, empty, is_utf8 }
    }

    /// The rows it has.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether every field is known to be UTF-8.
    pub(crate) fn is_utf8(&self) -> bool {
        self.is_utf8
    }

    /// A row, by its position.
    pub(crate) fn row(&self, at: usize) -> Option<Row<'_>> {
        let Record { bounds_at, n_fields, fault } = *self.records.get(at)?;
        let bounds_end = self.records.get(at + 1).map_or(self.bounds.len(), |next| next.bounds_at);
        let bounds = &self.bounds[bounds_at..bounds_end];
        Some(Row { bytes: &self.bytes, bounds, empty: self.empty, n_fields, fault })
    }
}

impl<'a> Row<'a> {
    /// The text of the field at a position below the header's count and [`Row::n_fields`]; a null has none.
    pub(crate) fn field(&self, at: usize) -> &'a [u8] {
        self.bounds[at].of(self.bytes)
    }

    /// The texts of the fields kept, in order.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.bounds.iter().map(move |bound| bound.of(bytes))
    }

    /// The fields kept, in order; nothing for a null.
    pub(crate) fn values(&self) -> impl Iterator<Item = Option<&'a [u8]>> + use<'a> {
        let (bytes, empty) = (self.bytes, self.empty);
        self.bounds.iter().map(move |bound| {
            let field = bound.of(bytes);
            let is_null = field.is_empty() && (empty == Empty::Null || bound.end == Bound::NULL);
            (!is_null).then_some(field)
        })
    }

    /// About the bytes of all fields kept, and no less.
    pub(crate) fn n_bytes(&self) -> usize {
        let bounds = self.bounds.first().zip(self.bounds.last());
        bounds.map_or(0, |(first, last)| (last.end() - first.start) as usize)
    }
}

/// Makes a chunk of rows that are written field by field, nulls told from empty texts.
#[derive(Default)]
pub(super) struct ChunkBuilder {
    bytes: Vec<u8>,
    bounds: Vec<Bound>,
    records: Vec<Record>,
    /// Where the open row starts.
    open_at: usize,
    open_bytes_at: usize,
    field_at: usize,
}

impl ChunkBuilder {
    /// Whether it is to be taken before more is put in.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= CHUNK_BYTES || self.bounds.len() >= CHUNK_BYTES
    }

    /// Where the text of the open field is put.
    pub(super) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn end_field(&mut self) {
        self.bounds.push(Bound::new(self.field_at, self.bytes.len()));
        self.field_at = self.bytes.len();
    }

    pub(super) fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.end_field();
    }

    pub(super) fn push_null(&mut self) {
        self.bounds.push(Bound::null(self.field_at));
    }

    /// Bytes of the open row.
    pub(super) fn row_bytes(&self) -> usize {
        self.bytes.len() - self.open_bytes_at
    }

    pub(super) fn end_row(&mut self) {
        self.end(None);
    }

    /// Ends the open row as a bad one, which stood as `text`.
    pub(super) fn end_bad_row(&mut self, fault: Fault, text: &[u8]) {
        self.bytes.truncate(self.open_bytes_at);
        self.bounds.truncate(self.open_at);
        self.field_at = self.open_bytes_at;
        self.push(text);
        self.end(Some(fault));
    }

    /// Ends the open row as one that is too long, of which only the start is kept.
    pub(super) fn end_long_row(&mut self) {
        self.bytes.truncate(self.open_bytes_at + CHUNK_BYTES);
        self.bounds.truncate(self.open_at);
        self.bounds.push(Bound::new(self.open_bytes_at, self.bytes.len()));
        self.field_at = self.bytes.len();
        self.end(Some(Fault::TooLong));
    }

    fn end(&mut self, fault: Option<Fault>) {
        self.records.push(Record { bounds_at: self.open_at, n_fields: self.bounds.len() - self.open_at, fault });
        (self.open_at, self.open_bytes_at) = (self.bounds.len(), self.bytes.len());
    }

    /// The whole rows; nothing when there are none.
    pub(super) fn take(&mut self) -> Option<Chunk> {
        let Self { bytes, bounds, records, .. } = std::mem::take(self);
        (!records.is_empty()).then(|| Chunk::new(bytes, bounds, records, Empty::Text))
    }
}
