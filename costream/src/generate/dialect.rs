//! How a charge is written: the columns of a report, and each provider's ways with nulls,
//! times, tags, decimals and quotes. Charge in, CSV bytes out.

use super::catalog::ProviderKind;
use super::charge::{Charge, Moment};
use super::world::USD;

macro_rules! columns {
    ($($variant:ident = $name:literal,)*) => {
        /// A column of a report.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Column { $($variant,)* }

        impl Column {
            /// Its name in the header.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

columns! {
    AvailabilityZone = "AvailabilityZone",
    BilledCost = "BilledCost",
    BillingAccountId = "BillingAccountId",
    BillingAccountName = "BillingAccountName",
    BillingAccountType = "BillingAccountType",
    BillingCurrency = "BillingCurrency",
    BillingPeriodEnd = "BillingPeriodEnd",
    BillingPeriodStart = "BillingPeriodStart",
    CapacityReservationId = "CapacityReservationId",
    CapacityReservationStatus = "CapacityReservationStatus",
    ChargeCategory = "ChargeCategory",
    ChargeClass = "ChargeClass",
    ChargeDescription = "ChargeDescription",
    ChargeFrequency = "ChargeFrequency",
    ChargePeriodEnd = "ChargePeriodEnd",
    ChargePeriodStart = "ChargePeriodStart",
    CommitmentDiscountCategory = "CommitmentDiscountCategory",
    CommitmentDiscountId = "CommitmentDiscountId",
    CommitmentDiscountName = "CommitmentDiscountName",
    CommitmentDiscountQuantity = "CommitmentDiscountQuantity",
    CommitmentDiscountStatus = "CommitmentDiscountStatus",
    CommitmentDiscountType = "CommitmentDiscountType",
    CommitmentDiscountUnit = "CommitmentDiscountUnit",
    ConsumedQuantity = "ConsumedQuantity",
    ConsumedUnit = "ConsumedUnit",
    ContractedCost = "ContractedCost",
    ContractedUnitPrice = "ContractedUnitPrice",
    EffectiveCost = "EffectiveCost",
    InvoiceId = "InvoiceId",
    InvoiceIssuerName = "InvoiceIssuerName",
    ListCost = "ListCost",
    ListUnitPrice = "ListUnitPrice",
    PricingCategory = "PricingCategory",
    PricingCurrency = "PricingCurrency",
    PricingCurrencyContractedUnitPrice = "PricingCurrencyContractedUnitPrice",
    PricingCurrencyEffectiveCost = "PricingCurrencyEffectiveCost",
    PricingCurrencyListUnitPrice = "PricingCurrencyListUnitPrice",
    PricingQuantity = "PricingQuantity",
    PricingUnit = "PricingUnit",
    ProviderName = "ProviderName",
    PublisherName = "PublisherName",
    RegionId = "RegionId",
    RegionName = "RegionName",
    ResourceId = "ResourceId",
    ResourceName = "ResourceName",
    ResourceType = "ResourceType",
    ServiceCategory = "ServiceCategory",
    Id = "Id",
    ServiceName = "ServiceName",
    ServiceSubcategory = "ServiceSubcategory",
    SkuId = "SkuId",
    SkuMeter = "SkuMeter",
    SkuPriceDetails = "SkuPriceDetails",
    SkuPriceId = "SkuPriceId",
    SubAccountId = "SubAccountId",
    SubAccountName = "SubAccountName",
    SubAccountType = "SubAccountType",
    Tags = "Tags",
    XCostCategories = "x_CostCategories",
    XDiscounts = "x_Discounts",
    XOperation = "x_Operation",
    XServiceCode = "x_ServiceCode",
    XUsageType = "x_UsageType",
    XBilledCostInUsd = "x_BilledCostInUsd",
    XBillingExchangeRate = "x_BillingExchangeRate",
    XCostCenter = "x_CostCenter",
    XResourceGroupName = "x_ResourceGroupName",
    XSkuMeterName = "x_SkuMeterName",
    XCostType = "x_CostType",
    XProjectId = "x_ProjectId",
    OciReferenceNumber = "oci_ReferenceNumber",
    OciCompartmentId = "oci_CompartmentId",
    OciCompartmentName = "oci_CompartmentName",
    OciOverageFlag = "oci_OverageFlag",
}

impl Column {
    /// FOCUS 1.0, in the order of its CSV.
    pub(crate) const FOCUS_1_0: [Self; 43] = [
        Self::AvailabilityZone,
        Self::BilledCost,
        Self::BillingAccountId,
        Self::BillingAccountName,
        Self::BillingCurrency,
        Self::BillingPeriodEnd,
        Self::BillingPeriodStart,
        Self::ChargeCategory,
        Self::ChargeClass,
        Self::ChargeDescription,
        Self::ChargeFrequency,
        Self::ChargePeriodEnd,
        Self::ChargePeriodStart,
        Self::CommitmentDiscountCategory,
        Self::CommitmentDiscountId,
        Self::CommitmentDiscountName,
        Self::CommitmentDiscountStatus,
        Self::CommitmentDiscountType,
        Self::ConsumedQuantity,
        Self::ConsumedUnit,
        Self::ContractedCost,
        Self::ContractedUnitPrice,
        Self::EffectiveCost,
        Self::InvoiceIssuerName,
        Self::ListCost,
        Self::ListUnitPrice,
        Self::PricingCategory,
        Self::PricingQuantity,
        Self::PricingUnit,
        Self::ProviderName,
        Self::PublisherName,
        Self::RegionId,
        Self::RegionName,
        Self::ResourceId,
        Self::ResourceName,
        Self::ResourceType,
        Self::ServiceCategory,
        Self::ServiceName,
        Self::SkuId,
        Self::SkuPriceId,
        Self::SubAccountId,
        Self::SubAccountName,
        Self::Tags,
    ];

    /// What FOCUS 1.1 and 1.2 add.
    pub(crate) const FOCUS_1_2_MORE: [Self; 14] = [
        Self::BillingAccountType,
        Self::CapacityReservationId,
        Self::CapacityReservationStatus,
        Self::CommitmentDiscountQuantity,
        Self::CommitmentDiscountUnit,
        Self::InvoiceId,
        Self::PricingCurrency,
        Self::PricingCurrencyContractedUnitPrice,
        Self::PricingCurrencyEffectiveCost,
        Self::PricingCurrencyListUnitPrice,
        Self::ServiceSubcategory,
        Self::SkuMeter,
        Self::SkuPriceDetails,
        Self::SubAccountType,
    ];
}

/// How points in time are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeForm {
    /// `2026-08-01T00:00:00Z`
    Zulu,
    /// `2026-08-01T00:00Z`
    ZuluMinutes,
    /// `2026-08-01 00:00:00`, which is UTC.
    Zoneless,
    /// `08/01/2026` for a midnight; else as `ZuluMinutes`.
    American,
}

/// How tags are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TagForm {
    /// `{"a": "1", "b": "2"}`
    Json,
    /// `"a": "1","b": "2"`
    Braceless,
    /// `a=1;b=2`
    Equals,
    /// `a:1;b:2`
    Colons,
    /// `[{"key": "a", "value": "1"}]`, as BigQuery has it.
    List,
}

/// How decimals are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecimalForm {
    /// No more digits than needed.
    Shortest,
    /// At least so many decimal places.
    Padded(usize),
    /// With an exponent when very small or large, as .NET (`1.6E-05`) or Python (`1.6e-05`).
    Scientific(char),
}

/// What stands around a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quotes {
    /// Quotes where RFC 4180 wants them.
    WhereNeeded,
    /// Quotes around every text; nulls and numbers without.
    AroundText,
    /// None around a quote within a text: parsers take it as it stands.
    Lazy,
}

/// A provider's way of writing a report.
#[derive(Debug)]
pub(crate) struct Dialect {
    /// What stands for a null.
    pub(crate) null: &'static str,
    pub(crate) quotes: Quotes,
    pub(crate) billing_time: TimeForm,
    pub(crate) charge_time: TimeForm,
    pub(crate) tags: TagForm,
    pub(crate) decimals: DecimalForm,
}

pub(crate) static STRICT: Dialect = Dialect {
    null: "",
    quotes: Quotes::WhereNeeded,
    billing_time: TimeForm::Zulu,
    charge_time: TimeForm::Zulu,
    tags: TagForm::Json,
    decimals: DecimalForm::Shortest,
};
pub(crate) static AWS: Dialect = Dialect { decimals: DecimalForm::Padded(10), ..STRICT };
pub(crate) static AZURE: Dialect = Dialect {
    billing_time: TimeForm::American,
    charge_time: TimeForm::ZuluMinutes,
    tags: TagForm::Braceless,
    decimals: DecimalForm::Scientific('E'),
    ..STRICT
};
pub(crate) static AZURE_COLONS: Dialect = Dialect { tags: TagForm::Colons, ..AZURE };
pub(crate) static GCP: Dialect = Dialect { tags: TagForm::List, decimals: DecimalForm::Scientific('e'), ..STRICT };
pub(crate) static OCI: Dialect = Dialect {
    null: "NULL",
    billing_time: TimeForm::ZuluMinutes,
    charge_time: TimeForm::ZuluMinutes,
    tags: TagForm::Equals,
    ..STRICT
};
pub(crate) static SAMPLE: Dialect = Dialect {
    null: "NULL",
    quotes: Quotes::AroundText,
    billing_time: TimeForm::Zoneless,
    charge_time: TimeForm::Zoneless,
    decimals: DecimalForm::Padded(15),
    ..STRICT
};
/// As [`SAMPLE`], with what it has seldom.
pub(crate) static SAMPLE_EXPONENTS: Dialect =
    Dialect { quotes: Quotes::Lazy, decimals: DecimalForm::Scientific('e'), ..SAMPLE };

impl Dialect {
    /// Writes one field of row `row`.
    pub(crate) fn write(&self, column: Column, charge: &Charge<'_>, row: u64, out: &mut Vec<u8>) {
        let resource = charge.resource;
        let account = charge.account;
        let priced = charge.quantity.is_some();
        let commitment = charge.commitment;
        // Prices and effective cost in dollars, whatever the bill's currency.
        let in_dollars = |amount: i128| amount * 1_000_000 / account.currency.per_dollar_micro;
        match column {
            Column::AvailabilityZone => self.text(resource.and_then(|r| r.zone), out),
            Column::BilledCost => self.decimal(Some(charge.billed), out),
            Column::BillingAccountId => self.text(Some(&account.billing_id), out),
            Column::BillingAccountName => self.text(Some(account.billing_name), out),
            Column::BillingAccountType => self.text(Some(charge.provider.billing_account_type), out),
            Column::BillingCurrency => self.text(Some(account.currency.code), out),
            Column::BillingPeriodEnd => self.time(charge.period.1, self.billing_time, out),
            Column::BillingPeriodStart => self.time(charge.period.0, self.billing_time, out),
            Column::CapacityReservationId => self.text(resource.and_then(|r| r.reservation.as_deref()), out),
            Column::CapacityReservationStatus => {
                self.text(resource.and_then(|r| r.reservation.as_ref()).map(|_| "Used"), out);
            }
            Column::ChargeCategory => self.text(Some(charge.category), out),
            Column::ChargeClass => self.text(charge.class, out),
            Column::ChargeDescription => self.text(Some(&charge.description), out),
            Column::ChargeFrequency => self.text(Some(charge.frequency), out),
            Column::ChargePeriodEnd => self.time(charge.time.1, self.charge_time, out),
            Column::ChargePeriodStart => self.time(charge.time.0, self.charge_time, out),
            Column::CommitmentDiscountCategory => self.text(commitment.map(|c| c.category), out),
            Column::CommitmentDiscountId => self.text(commitment.map(|c| c.id.as_str()), out),
            Column::CommitmentDiscountName => self.text(commitment.map(|c| c.name.as_str()), out),
            Column::CommitmentDiscountQuantity => self.decimal(commitment.and(charge.quantity), out),
            Column::CommitmentDiscountStatus => self.text(charge.commitment_status, out),
            Column::CommitmentDiscountType => self.text(commitment.map(|c| c.kind), out),
            Column::CommitmentDiscountUnit => {
                self.text(commitment.filter(|_| priced).map(|_| charge.service.unit), out);
            }
            Column::ConsumedQuantity => self.decimal(charge.quantity.filter(|_| charge.consumed), out),
            Column::ConsumedUnit => self.text((priced && charge.consumed).then_some(charge.service.unit), out),
            Column::ContractedCost => self.decimal(Some(charge.contracted), out),
            Column::ContractedUnitPrice => self.decimal(charge.contracted_unit_price, out),
            Column::EffectiveCost => self.decimal(Some(charge.effective), out),
            Column::InvoiceId => self.text(Some(charge.invoice), out),
            Column::InvoiceIssuerName => self.text(Some(charge.provider.invoice_issuer), out),
            Column::ListCost => self.decimal(Some(charge.list), out),
            Column::ListUnitPrice => self.decimal(charge.list_unit_price, out),
            Column::PricingCategory => self.text(charge.pricing, out),
            Column::PricingCurrency => self.text(Some(USD.code), out),
            Column::PricingCurrencyContractedUnitPrice => {
                self.decimal(charge.contracted_unit_price.map(in_dollars), out);
            }
            Column::PricingCurrencyEffectiveCost => self.decimal(Some(in_dollars(charge.effective)), out),
            Column::PricingCurrencyListUnitPrice => self.decimal(charge.list_unit_price.map(in_dollars), out),
            Column::PricingQuantity => self.decimal(charge.quantity, out),
            Column::PricingUnit => self.text(priced.then_some(charge.service.unit), out),
            Column::ProviderName => self.text(Some(charge.provider.name), out),
            Column::PublisherName => self.text(Some(charge.provider.publisher), out),
            Column::RegionId => self.text(resource.map(|r| r.region.id), out),
            Column::RegionName => self.text(resource.map(|r| r.region.name), out),
            Column::ResourceId => self.text(resource.map(|r| r.id.as_str()), out),
            Column::ResourceName => self.text(resource.and_then(|r| r.name.as_deref()), out),
            Column::ResourceType => self.text(resource.map(|r| r.service.resource_type), out),
            Column::ServiceCategory => self.text(Some(charge.service.category), out),
            Column::Id => write_integer(row, out),
            Column::ServiceName => self.text(Some(charge.service.name), out),
            Column::ServiceSubcategory => self.text(Some(charge.service.subcategory), out),
            Column::SkuId => self.text(resource.map(|r| r.sku_id.as_str()), out),
            Column::SkuMeter | Column::XSkuMeterName | Column::XUsageType => {
                self.text(resource.map(|r| r.service.meter), out);
            }
            Column::SkuPriceDetails => self.field(resource.map(|r| r.sku_price_details.as_str()), out),
            Column::SkuPriceId => self.text(resource.map(|r| r.sku_price_id.as_str()), out),
            Column::SubAccountId | Column::OciCompartmentId | Column::XProjectId => {
                self.text(Some(&account.sub_id), out);
            }
            Column::SubAccountName | Column::OciCompartmentName => self.text(Some(&account.sub_name), out),
            Column::SubAccountType => self.text(Some(charge.provider.sub_account_type), out),
            Column::Tags => {
                self.field(
                    resource.and_then(|r| r.tags.as_ref()).map(|fields| fields[self.tags.place()].as_str()),
                    out,
                );
            }
            Column::XCostCategories => self.field(Some(&account.cost_categories), out),
            Column::XDiscounts => self.field(resource.map(|_| account.discounts.as_str()), out),
            Column::XOperation => {
                self.text(resource.map(|r| if r.service.committable { "RunInstances" } else { "Request" }), out);
            }
            Column::XServiceCode => self.text(Some(charge.service.name), out),
            Column::XBilledCostInUsd => self.decimal(Some(in_dollars(charge.billed)), out),
            Column::XBillingExchangeRate => {
                self.decimal(Some(account.currency.per_dollar_micro * 1_000_000_000_000), out);
            }
            Column::XCostCenter => self.text(Some(account.team.cost_center), out),
            Column::XResourceGroupName => self.text(
                resource.filter(|_| charge.provider.kind == ProviderKind::Azure).and_then(|r| r.id.split('/').nth(4)),
                out,
            ),
            Column::XCostType => self.text(Some(if charge.category == "Tax" { "tax" } else { "regular" }), out),
            Column::OciReferenceNumber => self.text(Some(&format!("V2.{row:012}")), out),
            Column::OciOverageFlag => self.text(Some("N"), out),
        }
    }

    /// What is a field already: JSON and tags, which are quoted in the same way everywhere.
    fn field(&self, field: Option<&str>, out: &mut Vec<u8>) {
        out.extend_from_slice(field.unwrap_or(self.null).as_bytes());
    }

    fn text(&self, text: Option<&str>, out: &mut Vec<u8>) {
        let Some(text) = text else {
            out.extend_from_slice(self.null.as_bytes());
            return;
        };
        // Without a way out of the loop it is done many bytes at a time.
        let (breaks, quotes) = text.bytes().fold((false, false), |(breaks, quotes), b| {
            (breaks | (b == b',') | (b == b'\n') | (b == b'\r'), quotes | (b == b'"'))
        });
        let must_quote = match self.quotes {
            Quotes::AroundText => true,
            Quotes::WhereNeeded => breaks || quotes,
            Quotes::Lazy => breaks || text.starts_with('"'),
        };
        if must_quote {
            out.push(b'"');
        }
        if must_quote && quotes {
            out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
        } else {
            out.extend_from_slice(text.as_bytes());
        }
        if must_quote {
            out.push(b'"');
        }
    }

    fn decimal(&self, units: Option<i128>, out: &mut Vec<u8>) {
        let Some(units) = units else {
            out.extend_from_slice(self.null.as_bytes());
            return;
        };
        if units < 0 {
            out.push(b'-');
        }
        let magnitude = units.unsigned_abs();
        let scientific = magnitude != 0 && !(100_000_000_000_000..100_000 * 10_u128.pow(18)).contains(&magnitude);
        match self.decimals {
            DecimalForm::Scientific(e) if scientific => write_scientific(magnitude, e, out),
            DecimalForm::Padded(places) => write_plain(magnitude, places, out),
            DecimalForm::Shortest | DecimalForm::Scientific(_) => write_plain(magnitude, 0, out),
        }
    }

    fn time(&self, moment: Moment, form: TimeForm, out: &mut Vec<u8>) {
        let Moment { year, month, day, hour } = moment;
        let two = |n: u8| [b'0' + n / 10, b'0' + n % 10];
        let year = [year / 100, year % 100].map(|part| two(u8::try_from(part).unwrap_or(0))).concat();
        if form == TimeForm::American && hour == 0 {
            out.extend_from_slice(&two(month));
            out.push(b'/');
            out.extend_from_slice(&two(day));
            out.push(b'/');
            out.extend_from_slice(&year);
            return;
        }
        // The sample has quotes around its times.
        let quote = self.quotes == Quotes::AroundText;
        if quote {
            out.push(b'"');
        }
        out.extend_from_slice(&year);
        for part in [month, day] {
            out.push(b'-');
            out.extend_from_slice(&two(part));
        }
        out.push(if form == TimeForm::Zoneless { b' ' } else { b'T' });
        out.extend_from_slice(&two(hour));
        out.extend_from_slice(match form {
            TimeForm::Zulu => b":00:00Z".as_slice(),
            TimeForm::ZuluMinutes | TimeForm::American => b":00Z",
            TimeForm::Zoneless => b":00:00",
        });
        if quote {
            out.push(b'"');
        }
    }
}

/// A text as a field of a CSV, for those that are written often.
pub(crate) fn field(text: &str) -> String {
    let mut out = Vec::new();
    STRICT.text(Some(text), &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

impl TagForm {
    /// All forms, in the order of [`Self::fields`].
    const ALL: [Self; 5] = [Self::Json, Self::Braceless, Self::Equals, Self::Colons, Self::List];

    /// The tags in each form, as fields.
    pub(crate) fn fields(tags: &[(&str, &str)]) -> [String; 5] {
        Self::ALL.map(|form| field(&form.text(tags)))
    }

    /// Which of [`Self::fields`] is in this form.
    fn place(self) -> usize {
        Self::ALL.iter().position(|form| *form == self).unwrap_or(0)
    }

    fn text(self, tags: &[(&str, &str)]) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\\\""));
        let parts: Vec<_> = tags
            .iter()
            .map(|(key, value)| match self {
                Self::Json | Self::Braceless => format!("{}: {}", quoted(key), quoted(value)),
                Self::Equals => format!("{key}={value}"),
                Self::Colons => format!("{key}:{value}"),
                Self::List => format!("{{\"key\": {}, \"value\": {}}}", quoted(key), quoted(value)),
            })
            .collect();
        match self {
            Self::Json => format!("{{{}}}", parts.join(", ")),
            Self::Braceless => parts.join(","),
            Self::Equals | Self::Colons => parts.join(";"),
            Self::List => format!("[{}]", parts.join(", ")),
        }
    }
}

/// `magnitude` times 10^-18 as plain text with at least `places` decimal places.
fn write_plain(magnitude: u128, places: usize, out: &mut Vec<u8>) {
    const ONE: u128 = 10_u128.pow(18);
    // No generated amount comes near 2^64 whole units.
    write_integer(u64::try_from(magnitude / ONE).unwrap_or(u64::MAX), out);
    let fraction = eighteen_digits(u64::try_from(magnitude % ONE).unwrap_or(0));
    let significant = fraction.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
    let needed = significant.max(places.min(18));
    if needed > 0 {
        out.push(b'.');
        out.extend_from_slice(&fraction[..needed]);
    }
}

fn write_integer(number: u64, out: &mut Vec<u8>) {
    if number < 10 {
        out.push(digit(number));
    } else {
        out.extend_from_slice(number.to_string().as_bytes());
    }
}

fn eighteen_digits(mut number: u64) -> [u8; 18] {
    let mut digits = [b'0'; 18];
    for place in digits.iter_mut().rev() {
        if number == 0 {
            break;
        }
        *place = digit(number % 10);
        number /= 10;
    }
    digits
}

fn digit(number: u64) -> u8 {
    b'0' + u8::try_from(number).unwrap_or(0)
}

/// `magnitude` times 10^-18, which is not nought, as `d.ddde-05`.
fn write_scientific(magnitude: u128, e: char, out: &mut Vec<u8>) {
    let digits = magnitude.to_string();
    let significant = digits.trim_end_matches('0');
    out.extend_from_slice(&significant.as_bytes()[..1]);
    if significant.len() > 1 {
        out.push(b'.');
        out.extend_from_slice(&significant.as_bytes()[1..]);
    }
    let sign = if digits.len() < 19 { '-' } else { '+' };
    out.extend_from_slice(format!("{e}{sign}{:02}", digits.len().abs_diff(19)).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_written_in_each_form() {
        let write = |units: i128, decimals| {
            let mut out = Vec::new();
            Dialect { decimals, ..STRICT }.decimal(Some(units), &mut out);
            String::from_utf8(out).expect("text")
        };
        let one = 10_i128.pow(18);
        for (units, form, text) in [
            (0, DecimalForm::Shortest, "0"),
            (0, DecimalForm::Padded(10), "0.0000000000"),
            (0, DecimalForm::Scientific('E'), "0"),
            (1, DecimalForm::Shortest, "0.000000000000000001"),
            (-1, DecimalForm::Scientific('e'), "-1e-18"),
            (-216_000_000_000, DecimalForm::Scientific('e'), "-2.16e-07"),
            (one / 8, DecimalForm::Scientific('e'), "0.125"),
            (one * 1_250_000, DecimalForm::Scientific('E'), "1.25E+06"),
            (one / 1_000_000 + 1, DecimalForm::Padded(10), "0.000001000000000001"),
            (-one * 3 / 2, DecimalForm::Padded(15), "-1.500000000000000"),
        ] {
            assert_eq!(write(units, form), text);
        }
    }

    #[test]
    fn texts_are_quoted_where_they_must_be() {
        let write = |text, quotes| {
            let mut out = Vec::new();
            Dialect { quotes, ..STRICT }.text(Some(text), &mut out);
            String::from_utf8(out).expect("text")
        };
        for (text, quotes, field) in [
            ("plain", Quotes::WhereNeeded, "plain"),
            ("plain", Quotes::AroundText, "\"plain\""),
            ("a, \"b\"\n", Quotes::WhereNeeded, "\"a, \"\"b\"\"\n\""),
            ("3.5\" disks", Quotes::Lazy, "3.5\" disks"),
            ("\"b\"", Quotes::Lazy, "\"\"\"b\"\"\""),
            ("3.5\", new", Quotes::Lazy, "\"3.5\"\", new\""),
        ] {
            assert_eq!(write(text, quotes), field);
        }
    }

    #[test]
    fn tags_are_written_in_each_form() {
        let tags = [("a.b", "http://x:1"), ("note", "the \"b\"")];
        assert_eq!(
            TagForm::ALL.map(|form| form.text(&tags)),
            [
                r#"{"a.b": "http://x:1", "note": "the \"b\""}"#,
                r#""a.b": "http://x:1","note": "the \"b\"""#,
                r#"a.b=http://x:1;note=the "b""#,
                r#"a.b:http://x:1;note:the "b""#,
                r#"[{"key": "a.b", "value": "http://x:1"}, {"key": "note", "value": "the \"b\""}]"#,
            ]
        );
    }

    #[test]
    fn a_version_has_no_column_twice() {
        let columns: Vec<_> = Column::FOCUS_1_0.into_iter().chain(Column::FOCUS_1_2_MORE).collect();
        for (nth, column) in columns.iter().enumerate() {
            assert!(!columns[..nth].contains(column), "{}", column.name());
        }
    }
}
