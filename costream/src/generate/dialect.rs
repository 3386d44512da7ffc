//! How a charge is written: the columns of a report, and each provider's choice of forms.
//! Charge in, CSV bytes out.

use super::catalog::ProviderKind;
use super::charge::{Charge, Moment};
use super::form::{DecimalForm, Quotes, TagForm, TimeForm, write_integer};
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
        match text {
            Some(text) => self.quotes.write(text, out),
            None => out.extend_from_slice(self.null.as_bytes()),
        }
    }

    fn decimal(&self, units: Option<i128>, out: &mut Vec<u8>) {
        match units {
            Some(units) => self.decimals.write(units, out),
            None => out.extend_from_slice(self.null.as_bytes()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_no_column_twice() {
        let columns: Vec<_> = Column::FOCUS_1_0.into_iter().chain(Column::FOCUS_1_2_MORE).collect();
        for (nth, column) in columns.iter().enumerate() {
            assert!(!columns[..nth].contains(column), "{}", column.name());
        }
    }
}
