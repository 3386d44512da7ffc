//! Rows of a query in, the same with text of their own out. The engine sees text where it was read, a batch of a file, and
//! copies it no more than it must; a row that is handed out holds on to nothing else.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt as _;

/// Text as `Utf8`, as it is stored, where it is a view.
pub(crate) fn owned(rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
    let own = |field: &FieldRef| match field.data_type() {
        DataType::Utf8View => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
        _ => Arc::clone(field),
    };
    let fields: Fields = rows.schema().fields().iter().map(own).collect();
    let schema: SchemaRef = Arc::new(Schema::new_with_metadata(fields, rows.schema().metadata().clone()));
    let of = Arc::clone(&schema);
    let owned = rows.map(move |batch| {
        let batch = batch?;
        let columns = batch.columns().iter().zip(of.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type())).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&of), columns, &options)?)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, owned))
}
