//! Who pays and what runs: accounts and some hundreds of resources made from a seed. A few
//! resources make most of the bill and most make next to nothing, as bills do.

use super::catalog::{PERIODS, Provider, ProviderKind, Region, Service};
use super::form::{TagForm, field};
use super::random::SplitMix64;

/// Resources of one provider.
const RESOURCES_PER_PROVIDER: u64 = 130;

/// A currency that accounts are billed in.
#[derive(Debug)]
pub(crate) struct Currency {
    /// ISO 4217.
    pub(crate) code: &'static str,
    /// How many of it a dollar is, in millionths.
    pub(crate) per_dollar_micro: i128,
}

/// List prices are in dollars.
pub(crate) static USD: Currency = Currency { code: "USD", per_dollar_micro: 1_000_000 };
static EUR: Currency = Currency { code: "EUR", per_dollar_micro: 921_357 };

/// A sub account and its billing account.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) provider: &'static Provider,
    pub(crate) currency: &'static Currency,
    pub(crate) billing_id: String,
    pub(crate) billing_name: &'static str,
    pub(crate) sub_id: String,
    pub(crate) sub_name: String,
    pub(crate) team: &'static Team,
    pub(crate) environment: &'static str,
    /// What is left of the list price after the negotiated discount, in thousandths.
    pub(crate) negotiated_permille: i128,
    /// `InvoiceId`, by period.
    pub(crate) invoices: [String; PERIODS.len()],
    /// `x_CostCategories`, as a field.
    pub(crate) cost_categories: String,
    /// `x_Discounts`, as a field.
    pub(crate) discounts: String,
}

/// Who owns things.
#[derive(Debug)]
pub(crate) struct Team {
    pub(crate) name: &'static str,
    pub(crate) org: &'static str,
    pub(crate) cost_center: &'static str,
    pub(crate) owner: &'static str,
    pub(crate) services: &'static [&'static str],
}

static TEAMS: [Team; 6] = [
    Team {
        name: "payments",
        org: "commerce",
        cost_center: "CC-1001",
        owner: "Zoë Müller",
        services: &["ledger", "card-gateway", "fraud", "payouts"],
    },
    Team {
        name: "checkout",
        org: "commerce",
        cost_center: "CC-1002",
        owner: "Siobhán O'Brien",
        services: &["cart", "orders", "pricing", "promo"],
    },
    Team {
        name: "search",
        org: "discovery",
        cost_center: "CC-2001",
        owner: "田中 花子",
        services: &["indexer", "query", "suggest"],
    },
    Team {
        name: "ml-platform",
        org: "discovery",
        cost_center: "CC-2002",
        owner: "Łukasz Nowak",
        services: &["training", "feature-store", "inference"],
    },
    Team {
        name: "data",
        org: "insight",
        cost_center: "CC-3001",
        owner: "Amélie Dubois",
        services: &["warehouse", "ingest", "reports", "lineage"],
    },
    Team {
        name: "platform",
        org: "shared",
        cost_center: "CC-9000",
        owner: "Jörg \"JJ\" Jansen",
        services: &["ci", "observability", "registry", "vpn"],
    },
];

/// Something that costs.
#[derive(Debug)]
pub(crate) struct Resource {
    /// Its account's place in [`World::accounts`].
    pub(crate) account: usize,
    pub(crate) service: &'static Service,
    pub(crate) region: &'static Region,
    pub(crate) zone: Option<&'static str>,
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    /// As a field in each form; nothing: the tags column is null.
    pub(crate) tags: Option<[String; 5]>,
    pub(crate) sku_id: String,
    pub(crate) sku_price_id: String,
    /// `SkuPriceDetails`, as a field.
    pub(crate) sku_price_details: String,
    /// `ChargeDescription`, mostly.
    pub(crate) description: String,
    pub(crate) commitment: Option<Commitment>,
    /// `CapacityReservationId`.
    pub(crate) reservation: Option<String>,
    /// How much larger than usual its charges are, in thousandths.
    pub(crate) size_permille: u64,
}

/// A commitment that discounts a resource.
#[derive(Debug)]
pub(crate) struct Commitment {
    pub(crate) id: String,
    pub(crate) name: String,
    /// `Spend` or `Usage`.
    pub(crate) category: &'static str,
    pub(crate) kind: &'static str,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) accounts: Vec<Account>,
    pub(crate) resources: Vec<Resource>,
    /// Running sums of how often each resource is charged.
    frequencies: Vec<u64>,
}

impl World {
    /// The accounts and resources that `seed` makes at `providers`.
    pub(crate) fn new(seed: u64, providers: &[&'static Provider]) -> Self {
        let mut world = Self { accounts: Vec::new(), resources: Vec::new(), frequencies: Vec::new() };
        for (nth, provider) in (0_u64..).zip(providers) {
            // Far from the streams that charges take, which count from nought.
            let mut random = SplitMix64::new(seed, u64::MAX - nth);
            let first_account = world.accounts.len();
            world.open_accounts(provider, &mut random);
            for rank in 0..RESOURCES_PER_PROVIDER {
                let account = first_account + usize::try_from(random.below(12)).unwrap_or(0);
                let resource = resource(&world.accounts[account], account, rank, &mut random);
                world.resources.push(resource);
                let before = world.frequencies.last().copied().unwrap_or(0);
                world.frequencies.push(before + 100_000 / (rank + 12));
            }
        }
        world
    }

    /// A resource to charge for.
    pub(crate) fn charged(&self, random: &mut SplitMix64) -> &Resource {
        let all = self.frequencies.last().copied().unwrap_or(1);
        let point = random.below(all);
        &self.resources[self.frequencies.partition_point(|sum| *sum <= point)]
    }

    /// Twelve accounts: each team's production and development, billed in two currencies.
    fn open_accounts(&mut self, provider: &'static Provider, random: &mut SplitMix64) {
        let billing: Vec<_> = [(&USD, "Sunbird Inc."), (&EUR, "Sunbird Europe, S.à r.l.")]
            .into_iter()
            .map(|(currency, name)| (currency, name, account_id(provider, random)))
            .collect();
        for (nth, team) in TEAMS.iter().enumerate() {
            let (currency, billing_name, billing_id) = &billing[usize::from(nth % 3 == 1)];
            for environment in ["prod", "dev"] {
                let negotiated_permille = i128::from(random.between(900, 1000));
                self.accounts.push(Account {
                    provider,
                    currency,
                    billing_id: billing_id.clone(),
                    billing_name,
                    sub_id: sub_account_id(provider, team, environment, random),
                    sub_name: format!("{} {environment}", team.name),
                    team,
                    environment,
                    negotiated_permille,
                    cost_categories: field(&format!(r#"{{"Team": "{}"}}"#, team.name)),
                    invoices: PERIODS.map(|(year, month, _)| {
                        format!("INV-{year}{month:02}-{}", &billing_id[billing_id.len() - 4..])
                    }),
                    discounts: field(&format!(r#"{{"negotiated_permille": {}}}"#, 1000 - negotiated_permille)),
                });
            }
        }
    }
}

/// A service's list price, in dollars.
pub(crate) fn price(service: &Service) -> String {
    format!("{}.{:09}", service.price_nano / 1_000_000_000, service.price_nano % 1_000_000_000)
}

fn account_id(provider: &Provider, random: &mut SplitMix64) -> String {
    match provider.kind {
        ProviderKind::Aws => random.number(12),
        ProviderKind::Azure => format!("/providers/Microsoft.Billing/billingAccounts/{}", random.number(8)),
        ProviderKind::Gcp => format!("01{}-{}-{}", random.hex(4), random.hex(6), random.hex(6)).to_uppercase(),
        ProviderKind::Oci => format!("ocid1.tenancy.oc1..aaaaaaaa{}", random.hex(16)),
    }
}

fn sub_account_id(provider: &Provider, team: &Team, environment: &str, random: &mut SplitMix64) -> String {
    match provider.kind {
        ProviderKind::Aws => random.number(12),
        ProviderKind::Azure => format!("/subscriptions/{}", random.uuid()),
        ProviderKind::Gcp => format!("{}-{environment}-{}", team.name, random.hex(4)),
        ProviderKind::Oci => format!("ocid1.compartment.oc1..aaaaaaaa{}", random.hex(16)),
    }
}

fn resource(account: &Account, at: usize, rank: u64, random: &mut SplitMix64) -> Resource {
    let provider = account.provider;
    let mut share = random.below(100);
    let service = provider.services.iter().find(|service| {
        let found = share < service.share;
        share = share.saturating_sub(service.share);
        found
    });
    let service = service.unwrap_or(&provider.services[0]);
    let region = random.pick(provider.regions);
    let workload = *random.pick(account.team.services);
    let name = format!("{workload}-{}-{:02}", account.environment, rank);
    let sku_id = match provider.kind {
        ProviderKind::Gcp => format!("{}-{}-{}", random.hex(4), random.hex(4), random.hex(4)).to_uppercase(),
        ProviderKind::Aws => random.hex(16).to_uppercase(),
        ProviderKind::Azure => format!("DZH318Z0{}", random.hex(4).to_uppercase()),
        ProviderKind::Oci => format!("B{}", random.number(5)),
    };
    Resource {
        account: at,
        service,
        region,
        zone: random.chance(400).then(|| *random.pick(region.zones)),
        id: resource_id(account, service, region, workload, &name, random),
        name: random.chance(800).then(|| name.clone()),
        tags: tags(account, workload, random),
        sku_price_id: format!("{sku_id}.{}", random.hex(10).to_uppercase()),
        sku_id,
        sku_price_details: field(&format!(r#"{{"x_Meter": "{}"}}"#, service.meter)),
        description: format!("${} per {} {} in {}", price(service), service.unit, service.meter, region.name),
        commitment: (service.committable && random.chance(350)).then(|| commitment(provider, account, region, random)),
        reservation: (service.committable && random.chance(100)).then(|| format!("cr-0{}", random.hex(16))),
        size_permille: 300 + 12_000 / (rank + 2),
    }
}

fn resource_id(
    account: &Account,
    service: &Service,
    region: &Region,
    workload: &str,
    name: &str,
    random: &mut SplitMix64,
) -> String {
    let (sub_id, path, region) = (&account.sub_id, service.id_path, region.id);
    match account.provider.kind {
        ProviderKind::Aws if path == "s3" => format!("arn:aws:s3:::{name}-{}", random.hex(6)),
        ProviderKind::Aws if path == "ec2" => format!("arn:aws:ec2:{region}:{sub_id}:instance/i-0{}", random.hex(16)),
        ProviderKind::Aws => format!("arn:aws:{path}:{region}:{sub_id}:{name}"),
        ProviderKind::Azure => {
            format!("{sub_id}/resourceGroups/rg-{workload}-{}/providers/{path}/{name}", account.environment)
        }
        ProviderKind::Gcp => {
            let (host, kind) = path.split_once('/').unwrap_or((path, "resources"));
            format!("//{host}/projects/{sub_id}/locations/{region}/{kind}/{name}")
        }
        ProviderKind::Oci => format!("ocid1.{path}.oc1.{region}.{}{}", random.hex(16), random.hex(16)),
    }
}

fn tags(account: &Account, workload: &str, random: &mut SplitMix64) -> Option<[String; 5]> {
    if random.chance(120) {
        return None;
    }
    let team = account.team;
    let mut tags = vec![("org", team.org), ("team", team.name), ("env", account.environment)];
    if random.chance(600) {
        tags.push(("cost-center", team.cost_center));
    }
    if random.chance(400) {
        tags.push(("app.kubernetes.io/name", workload));
    }
    if random.chance(300) {
        tags.push(("owner", team.owner));
    }
    let runbook = format!("https://wiki.example.com:8443/{}/{workload}", team.name);
    if random.chance(200) {
        tags.push(("runbook", &runbook));
    }
    if random.chance(60) {
        tags.push(("note", "the \"blue\" stack, second half"));
    }
    Some(TagForm::fields(&tags))
}

fn commitment(provider: &Provider, account: &Account, region: &Region, random: &mut SplitMix64) -> Commitment {
    let (category, kind) = match provider.kind {
        ProviderKind::Aws => *random.pick(&[("Spend", "Compute Savings Plans"), ("Usage", "Reserved Instances")]),
        ProviderKind::Azure => *random.pick(&[("Spend", "Savings Plan"), ("Usage", "Reservation")]),
        ProviderKind::Gcp => *random.pick(&[("Spend", "Flexible CUD"), ("Usage", "Resource CUD")]),
        ProviderKind::Oci => ("Spend", "Annual Universal Credits"),
    };
    let id = match provider.kind {
        ProviderKind::Aws => format!("arn:aws:savingsplans::{}:savingsplan/{}", account.sub_id, random.uuid()),
        ProviderKind::Azure => format!("/providers/Microsoft.BillingBenefits/savingsPlanOrders/{}", random.uuid()),
        ProviderKind::Gcp => {
            format!("projects/{}/regions/{}/commitments/{}", account.sub_id, region.id, random.number(12))
        }
        ProviderKind::Oci => format!("ocid1.subscription.oc1..{}", random.hex(16)),
    };
    Commitment { id, name: format!("{kind}, {} ({})", account.team.name, region.id), category, kind }
}
