//! The text of an answer of Azure Monitor in, its points out, in its order. Two forms: of one resource
//! (<https://learn.microsoft.com/rest/api/monitor/metrics/list>), and of many (`metrics:getBatch`,
//! <https://learn.microsoft.com/rest/api/monitor/metrics-batch/batch>), each of whose `values` is one of the first with a
//! `resourceid`. Values are taken as text, digit by digit. Does not judge them.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A point of a series, as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// Its resource.
    pub(crate) resource: Arc<str>,
    /// Its metric.
    pub(crate) metric: Arc<str>,
    /// What it is measured in.
    pub(crate) unit: Option<Arc<str>>,
    /// When.
    pub(crate) timestamp: String,
    /// The number's text; nothing when there was nothing to measure.
    pub(crate) average: Option<String>,
}

/// What an answer says.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    pub(crate) points: Vec<Point>,
    /// Metrics that could not be had, each with Azure's word for it.
    pub(crate) failed: Vec<(Arc<str>, String)>,
}

/// Reads an answer. Its resource is `resource`, or the one of `resources` that it names, whatever the case.
///
/// # Errors
/// It is none.
pub(crate) fn read(text: &[u8], resources: &[Arc<str>]) -> Result<Answered, serde_json::Error> {
    let answer: Answer<'_> = serde_json::from_slice(text)?;
    let mut answered = Answered::default();
    match (answer.values, answer.value, resources) {
        (Some(values), ..) => {
            for values in values {
                let named = values.resourceid.as_deref().unwrap_or_default();
                // What was not asked for is not ours.
                if let Some(resource) = resources.iter().find(|asked| asked.eq_ignore_ascii_case(named)) {
                    answered.take(resource, values.value);
                }
            }
        }
        (None, Some(metrics), [resource, ..]) => answered.take(resource, metrics),
        _ => return Err(serde::de::Error::custom("it has neither `value` nor `values`")),
    }
    Ok(answered)
}

impl Answered {
    fn take(&mut self, resource: &Arc<str>, metrics: Vec<MetricText<'_>>) {
        for metric in metrics {
            let name: Arc<str> = metric.name.value.into();
            if let Some(code) = metric.error_code.filter(|code| code != "Success") {
                self.failed.push((Arc::clone(&name), code));
            }
            let unit: Option<Arc<str>> = metric.unit.map(Arc::from);
            for point in metric.timeseries.into_iter().flat_map(|series| series.data) {
                self.points.push(Point {
                    resource: Arc::clone(resource),
                    metric: Arc::clone(&name),
                    unit: unit.clone(),
                    timestamp: point.timestamp,
                    average: point.average.map(|number| number.get().trim_matches('"').to_owned()),
                });
            }
        }
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    value: Option<Vec<MetricText<'a>>>,
    #[serde(borrow)]
    values: Option<Vec<OfResource<'a>>>,
}

#[derive(Deserialize)]
struct OfResource<'a> {
    resourceid: Option<String>,
    #[serde(borrow, default)]
    value: Vec<MetricText<'a>>,
}

#[derive(Deserialize)]
struct MetricText<'a> {
    name: NameText,
    unit: Option<String>,
    #[serde(rename = "errorCode")]
    error_code: Option<String>,
    #[serde(borrow, default, deserialize_with = "null_is_none")]
    timeseries: Vec<SeriesText<'a>>,
}

#[derive(Deserialize)]
struct NameText {
    value: String,
}

#[derive(Deserialize)]
struct SeriesText<'a> {
    #[serde(borrow, default, deserialize_with = "null_is_none")]
    data: Vec<PointText<'a>>,
}

#[derive(Deserialize)]
struct PointText<'a> {
    #[serde(rename = "timeStamp")]
    timestamp: String,
    #[serde(borrow)]
    average: Option<&'a RawValue>,
}

fn null_is_none<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(ids: &[&str]) -> Vec<Arc<str>> {
        ids.iter().map(|id| Arc::from(*id)).collect()
    }

    #[test]
    fn an_answer_of_one_resource_is_read_digit_by_digit() {
        let text = br#"{"cost": 59, "timespan": "2024-09-18T10:00:00Z/2024-09-18T11:00:00Z", "interval": "PT15M",
            "namespace": "Microsoft.Compute/virtualMachines", "resourceregion": "westeurope", "value": [{
            "id": "/x", "type": "Microsoft.Insights/metrics", "name": {"value": "Percentage CPU", "localizedValue": "CPU"},
            "displayDescription": "d", "unit": "Percent", "errorCode": "Success", "timeseries": [{"metadatavalues": [],
            "data": [{"timeStamp": "2024-09-18T10:00:00Z", "average": 0.1234567890123456789},
                {"timeStamp": "2024-09-18T10:15:00Z", "average": 1e-12}, {"timeStamp": "2024-09-18T10:30:00Z"},
                {"timeStamp": "2024-09-18T10:45:00Z", "average": null}]}]},
            {"name": {"value": "Disk"}, "errorCode": "NotAvailable", "timeseries": null}]}"#;
        let answered = read(text, &asked(&["/vm1"])).expect("an answer");
        let told: Vec<_> = answered.points.iter().map(|p| (p.timestamp.as_str(), p.average.as_deref())).collect();
        assert_eq!(
            told,
            [
                ("2024-09-18T10:00:00Z", Some("0.1234567890123456789")),
                ("2024-09-18T10:15:00Z", Some("1e-12")),
                ("2024-09-18T10:30:00Z", None),
                ("2024-09-18T10:45:00Z", None),
            ]
        );
        let first = &answered.points[0];
        assert_eq!(
            (&*first.resource, &*first.metric, first.unit.as_deref()),
            ("/vm1", "Percentage CPU", Some("Percent"))
        );
        assert_eq!(answered.failed, [("Disk".into(), "NotAvailable".to_owned())]);
    }

    #[test]
    fn an_answer_of_many_is_told_apart_by_their_ids() {
        let text = br#"{"values": [
            {"resourceid": "/SUBSCRIPTIONS/S/vm2", "value": [{"name": {"value": "a"}, "timeseries": [{"data": [{"timeStamp": "t", "average": 2}]}]}]},
            {"resourceid": "/other", "value": [{"name": {"value": "a"}, "timeseries": [{"data": [{"timeStamp": "t", "average": 9}]}]}]},
            {"resourceid": "/subscriptions/s/vm1", "value": [{"name": {"value": "a"}, "timeseries": []}]}]}"#;
        let answered = read(text, &asked(&["/subscriptions/s/vm1", "/subscriptions/s/vm2"])).expect("an answer");
        let [point] = answered.points.as_slice() else { panic!("{answered:?}") };
        assert_eq!((&*point.resource, point.average.as_deref()), ("/subscriptions/s/vm2", Some("2")));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for text in [
            "",
            "[]",
            "{}",
            "<html>",
            r#"{"value": [{"name": "a"}]}"#,
            r#"{"value": [{"name": {"value": "a"}, "timeseries": [{"data": [{}]}]}]}"#,
        ] {
            assert!(read(text.as_bytes(), &asked(&["/vm1"])).is_err(), "{text}");
        }
    }
}
