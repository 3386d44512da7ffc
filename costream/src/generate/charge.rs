//! One charge, in meaning: which resource, when, how much. How it is written down is the
//! dialect's business. Amounts are exact: counts of 10^-18.

use std::borrow::Cow;

use super::catalog::{PERIODS, Provider, ProviderKind, Service};
use super::random::SplitMix64;
use super::world::{Account, Commitment, Resource, World, price};

/// 10^-18 units of one.
const ONE: i128 = 1_000_000_000_000_000_000;
/// What is left of the price under a commitment, in thousandths.
const COMMITTED_PERMILLE: i128 = 617;

/// A full hour, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) year: u16,
    pub(crate) month: u8,
    pub(crate) day: u8,
    pub(crate) hour: u8,
}

impl Moment {
    /// The `hour`th hour of a period, from nought; the first beyond it is the next month's.
    fn in_period(period: usize, hour: u64) -> Self {
        let (year, month, days) = PERIODS[period];
        let hours = u64::from(days) * 24;
        if hour >= hours {
            // No period is a December.
            return Self { year, month: month + 1, day: 1, hour: 0 };
        }
        let small = |n: u64| u8::try_from(n).unwrap_or(u8::MAX);
        Self { year, month, day: small(hour / 24 + 1), hour: small(hour % 24) }
    }
}

/// A row of a report, before it is written.
#[derive(Debug)]
pub(crate) struct Charge<'w> {
    pub(crate) provider: &'static Provider,
    pub(crate) account: &'w Account,
    pub(crate) service: &'static Service,
    /// Taxes, credits and purchases have none.
    pub(crate) resource: Option<&'w Resource>,
    pub(crate) period: (Moment, Moment),
    pub(crate) time: (Moment, Moment),
    /// `ChargeCategory`.
    pub(crate) category: &'static str,
    /// `ChargeClass`: nothing, or `Correction`.
    pub(crate) class: Option<&'static str>,
    /// `ChargeFrequency`.
    pub(crate) frequency: &'static str,
    pub(crate) description: Cow<'w, str>,
    pub(crate) invoice: &'w str,
    /// `PricingCategory`.
    pub(crate) pricing: Option<&'static str>,
    pub(crate) commitment: Option<&'w Commitment>,
    /// `CommitmentDiscountStatus`.
    pub(crate) commitment_status: Option<&'static str>,
    pub(crate) quantity: Option<i128>,
    /// Whether something was consumed, not only priced.
    pub(crate) consumed: bool,
    pub(crate) list_unit_price: Option<i128>,
    pub(crate) contracted_unit_price: Option<i128>,
    pub(crate) list: i128,
    pub(crate) contracted: i128,
    pub(crate) effective: i128,
    pub(crate) billed: i128,
}

/// What kind of line a charge is, and how many of a thousand are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Usage,
    Covered,
    Unused,
    Purchase,
    Tax,
    Credit,
    Refund,
    Correction,
}

impl Kind {
    fn of(resource: &Resource, random: &mut SplitMix64) -> Self {
        match random.below(1000) {
            0..10 => Self::Tax,
            10..22 => Self::Credit,
            22..32 => Self::Refund,
            32..44 => Self::Correction,
            44..50 => Self::Purchase,
            50..62 if resource.commitment.is_some() => Self::Unused,
            62..700 if resource.commitment.is_some() => Self::Covered,
            _ => Self::Usage,
        }
    }
}

impl<'w> Charge<'w> {
    /// The charge that `random` makes in `world` for a billing period.
    pub(crate) fn new(world: &'w World, period: usize, random: &mut SplitMix64) -> Self {
        let resource = world.charged(random);
        let account = &world.accounts[resource.account];
        let (provider, service) = (account.provider, resource.service);
        let kind = Kind::of(resource, random);
        let hours = u64::from(PERIODS[period].2) * 24;
        let whole_period = (Moment::in_period(period, 0), Moment::in_period(period, hours));
        let time = match (kind, provider.kind) {
            (Kind::Tax | Kind::Credit | Kind::Purchase, _) => whole_period,
            (_, ProviderKind::Azure) => {
                let day = random.below(hours / 24);
                (Moment::in_period(period, day * 24), Moment::in_period(period, day * 24 + 24))
            }
            _ => {
                let hour = random.below(hours);
                (Moment::in_period(period, hour), Moment::in_period(period, hour + 1))
            }
        };
        let mut charge = Self {
            provider,
            account,
            service,
            resource: Some(resource),
            period: whole_period,
            time,
            category: "Usage",
            class: None,
            frequency: "Usage-Based",
            description: description(service, resource, random),
            invoice: &account.invoices[period],
            pricing: Some("Standard"),
            commitment: None,
            commitment_status: None,
            quantity: None,
            consumed: true,
            list_unit_price: None,
            contracted_unit_price: None,
            list: 0,
            contracted: 0,
            effective: 0,
            billed: 0,
        };
        charge.price(resource, kind, random);
        charge
    }

    fn price(&mut self, resource: &'w Resource, kind: Kind, random: &mut SplitMix64) {
        let rate = self.account.currency.per_dollar_micro;
        let quantity_nano = quantity_nano(resource, random);
        let price_nano = i128::from(self.service.price_nano);
        self.quantity = Some(quantity_nano * 1_000_000_000);
        self.list_unit_price = Some(price_nano * rate * 1_000);
        self.contracted_unit_price = Some(price_nano * rate * self.account.negotiated_permille);
        self.list = price_nano * quantity_nano * rate / 1_000_000;
        self.contracted = price_nano * quantity_nano * rate / 1_000_000 * self.account.negotiated_permille / 1_000;
        self.effective = self.contracted;
        self.billed = self.contracted;
        match kind {
            Kind::Usage => {}
            Kind::Covered | Kind::Unused => {
                self.billed = 0;
                self.effective = self.contracted * COMMITTED_PERMILLE / 1_000;
                self.pricing = Some("Committed");
                self.commitment = resource.commitment.as_ref();
                self.commitment_status = Some(if kind == Kind::Covered { "Used" } else { "Unused" });
                if kind == Kind::Unused {
                    self.resource = None;
                    self.consumed = false;
                    self.description = format!("Unused commitment for {}", self.service.name).into();
                }
            }
            Kind::Purchase => {
                let amount = i128::from(random.between(5_000, 90_000)) * (ONE / 100);
                self.lump_sum(
                    "Purchase",
                    "Recurring",
                    amount,
                    0,
                    format!("Monthly commitment fee, {}", self.service.name),
                );
                self.commitment = resource.commitment.as_ref();
            }
            Kind::Tax => {
                let amount = i128::from(random.between(100, 6_000)) * (ONE / 100);
                self.lump_sum("Tax", "One-Time", amount, amount, "VAT, 19 %".to_owned());
                self.pricing = None;
            }
            Kind::Credit => {
                let amount = -i128::from(random.between(100, 4_000)) * (ONE / 100);
                self.lump_sum(
                    "Credit",
                    "One-Time",
                    amount,
                    amount,
                    format!("Promotional credit \"Migration\", {}", self.service.name),
                );
                self.pricing = None;
            }
            Kind::Refund | Kind::Correction => {
                for amount in [&mut self.list, &mut self.contracted, &mut self.effective, &mut self.billed] {
                    *amount = -*amount / 2;
                }
                self.quantity = self.quantity.map(|quantity| -quantity / 2);
                self.class = Some("Correction");
                if kind == Kind::Refund {
                    self.category = "Adjustment";
                    self.frequency = "One-Time";
                    self.pricing = None;
                    self.consumed = false;
                    self.description = format!("Refund: {}", self.description).into();
                }
            }
        }
    }

    /// A line without a resource, a quantity or a unit price.
    fn lump_sum(
        &mut self,
        category: &'static str,
        frequency: &'static str,
        billed: i128,
        effective: i128,
        description: String,
    ) {
        self.resource = None;
        self.category = category;
        self.frequency = frequency;
        self.quantity = None;
        self.consumed = false;
        self.list_unit_price = None;
        self.contracted_unit_price = None;
        self.list = billed;
        self.contracted = billed;
        self.effective = effective;
        self.billed = billed;
        self.description = description.into();
    }
}

/// Mostly small, seldom large; three decimal places, and nine in every eighth charge.
fn quantity_nano(resource: &Resource, random: &mut SplitMix64) -> i128 {
    let (low, high) = resource.service.quantity_milli;
    let milli = random.between(low, high).min(random.between(low, high)).min(random.between(low, high));
    let milli = i128::from(milli) * i128::from(resource.size_permille) / 1_000 + 1;
    let beyond = if random.chance(125) { random.below(1_000_000) | 1 } else { 0 };
    milli * 1_000_000 + i128::from(beyond)
}

fn description<'w>(service: &Service, resource: &'w Resource, random: &mut SplitMix64) -> Cow<'w, str> {
    let (meter, unit, region) = (service.meter, service.unit, resource.region.name);
    match random.below(1000) {
        0..6 => format!("{meter}\n${} per {unit}, {region}", price(service)).into(),
        6..30 => format!("\"{meter}\" in {region}, ${} per {unit}", price(service)).into(),
        30..50 => format!("{meter} on 3.5\" disks in {region}").into(),
        50..70 => format!("{meter} – Größe ×2 in {region} ✓").into(),
        _ => resource.description.as_str().into(),
    }
}
