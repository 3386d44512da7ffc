//! What there is to pay for: providers, their services and regions. Invented prices near the
//! published ones; nothing here is anybody's bill.

/// The billing periods of a report: year, month, days.
pub(crate) const PERIODS: [(u16, u8, u8); 3] = [(2026, 8, 31), (2026, 9, 30), (2026, 10, 31)];

/// A provider of services.
#[derive(Debug)]
pub(crate) struct Provider {
    /// Which of the providers' ways of writing a report is its own.
    pub(crate) kind: ProviderKind,
    /// `ProviderName`.
    pub(crate) name: &'static str,
    /// `PublisherName` of its own services.
    pub(crate) publisher: &'static str,
    /// `InvoiceIssuerName`.
    pub(crate) invoice_issuer: &'static str,
    /// `BillingAccountType`.
    pub(crate) billing_account_type: &'static str,
    /// `SubAccountType`.
    pub(crate) sub_account_type: &'static str,
    /// What it sells.
    pub(crate) services: &'static [Service],
    /// Where.
    pub(crate) regions: &'static [Region],
}

/// The providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProviderKind {
    /// Amazon Web Services.
    Aws,
    /// Microsoft Azure.
    Azure,
    /// Google Cloud.
    Gcp,
    /// Oracle Cloud Infrastructure.
    Oci,
}

/// A service, with one price.
#[derive(Debug)]
pub(crate) struct Service {
    /// `ServiceName`.
    pub(crate) name: &'static str,
    /// `ServiceCategory`.
    pub(crate) category: &'static str,
    /// `ServiceSubcategory`.
    pub(crate) subcategory: &'static str,
    /// `ResourceType`.
    pub(crate) resource_type: &'static str,
    /// How a resource's id names the type: the part between account and name.
    pub(crate) id_path: &'static str,
    /// `SkuMeter`, and the usage type in the provider's own columns.
    pub(crate) meter: &'static str,
    /// `PricingUnit` and `ConsumedUnit`.
    pub(crate) unit: &'static str,
    /// List price of one unit, in billionths.
    pub(crate) price_nano: u64,
    /// Units in one charge, in thousandths: from, to.
    pub(crate) quantity_milli: (u64, u64),
    /// How many of a hundred resources are of this service.
    pub(crate) share: u64,
    /// Whether commitments cover it.
    pub(crate) committable: bool,
}

/// A region.
#[derive(Debug)]
pub(crate) struct Region {
    /// `RegionId`.
    pub(crate) id: &'static str,
    /// `RegionName`.
    pub(crate) name: &'static str,
    /// `AvailabilityZone`s: the region's id (nothing when zones are plain numbers) and these.
    pub(crate) zones: &'static [&'static str],
}

macro_rules! service {
    ($name:literal, $category:literal / $subcategory:literal, $type:literal at $path:literal, $meter:literal, $price:literal per $unit:literal,
     $from:literal..$to:literal, share $share:literal $(, $committable:ident)?) => {
        Service {
            name: $name, category: $category, subcategory: $subcategory, resource_type: $type, id_path: $path, meter: $meter, unit: $unit,
            price_nano: $price, quantity_milli: ($from, $to), share: $share, committable: service!(@ $($committable)?),
        }
    };
    (@ committable) => { true };
    (@) => { false };
}

const fn region(id: &'static str, name: &'static str, zones: &'static [&'static str]) -> Region {
    Region { id, name, zones }
}

/// Amazon Web Services.
pub(crate) static AWS: Provider = Provider {
    kind: ProviderKind::Aws,
    name: "AWS",
    publisher: "Amazon Web Services, Inc.",
    invoice_issuer: "Amazon Web Services, Inc.",
    billing_account_type: "Payer Account",
    sub_account_type: "Account",
    services: &[
        service!("Amazon Elastic Compute Cloud", "Compute" / "Virtual Machines", "Instance" at "ec2", "BoxUsage:m7i.2xlarge", 403_200_000 per "Hours", 1_000..24_000, share 30, committable),
        service!("Amazon Relational Database Service", "Databases" / "Relational Databases", "DB Instance" at "rds", "InstanceUsage:db.r6g.xl", 478_000_003 per "Hours", 1_000..24_000, share 12, committable),
        service!("Amazon Simple Storage Service", "Storage" / "Object Storage", "Bucket" at "s3", "TimedStorage-ByteHrs", 23_000_000 per "GB-Months", 20..48_000, share 18),
        service!("Amazon Elastic Kubernetes Service", "Compute" / "Containers", "Cluster" at "eks", "AmazonEKS-Hours:perCluster", 100_000_000 per "Hours", 1_000..24_000, share 6),
        service!("AWS Lambda", "Compute" / "Serverless Compute", "Function" at "lambda", "Lambda-GB-Second", 16_667 per "GB-Seconds", 100..9_000_000, share 12),
        service!("Amazon CloudFront", "Networking" / "Content Delivery", "Distribution" at "cloudfront", "EU-DataTransfer-Out-Bytes", 85_000_000 per "GB", 10..90_000, share 6),
        service!("Amazon Simple Queue Service", "Integration" / "Messaging", "Queue" at "sqs", "Requests-Tier1", 401 per "Requests", 1_000..800_000_000, share 8),
        service!("Amazon Bedrock", "AI and Machine Learning" / "Generative AI", "Model" at "bedrock", "Claude-input-tokens", 3_000_000 per "1K Tokens", 500..900_000, share 4),
        service!("AWS Key Management Service", "Security" / "Secret Management", "Key" at "kms", "KMS-Keys", 1_388_889 per "Keys", 1_000..2_000, share 4),
    ],
    regions: &[
        region("us-east-1", "US East (N. Virginia)", &["us-east-1a", "us-east-1b", "us-east-1d"]),
        region("eu-central-1", "EU (Frankfurt)", &["eu-central-1a", "eu-central-1b"]),
        region("eu-west-1", "EU (Ireland)", &["eu-west-1a", "eu-west-1c"]),
        region("ap-south-1", "Asia Pacific (Mumbai)", &["ap-south-1a"]),
    ],
};

/// Microsoft Azure.
pub(crate) static AZURE: Provider = Provider {
    kind: ProviderKind::Azure,
    name: "Microsoft",
    publisher: "Microsoft",
    invoice_issuer: "Microsoft",
    billing_account_type: "Billing Profile",
    sub_account_type: "Subscription",
    services: &[
        service!("Virtual Machines", "Compute" / "Virtual Machines", "Virtual machine" at "Microsoft.Compute/virtualMachines", "D8s v5", 384_000_000 per "1 Hour", 1_000..24_000, share 30, committable),
        service!("Azure SQL Database", "Databases" / "Relational Databases", "SQL database" at "Microsoft.Sql/servers/sql-main/databases", "vCore - Gen5", 252_100_003 per "1 Hour", 2_000..96_000, share 12, committable),
        service!("Storage Accounts", "Storage" / "Object Storage", "Storage account" at "Microsoft.Storage/storageAccounts", "Hot LRS Data Stored", 18_400_000 per "1 GB/Month", 20..48_000, share 20),
        service!("Azure Kubernetes Service", "Compute" / "Containers", "Kubernetes service" at "Microsoft.ContainerService/managedClusters", "Standard Uptime SLA", 100_000_000 per "1 Hour", 1_000..24_000, share 6),
        service!("Azure Functions", "Compute" / "Serverless Compute", "Function App" at "Microsoft.Web/sites", "On Demand Execution Time", 16_011 per "1 GB Second", 100..9_000_000, share 8),
        service!("Azure Monitor", "Management and Governance" / "Observability", "Log Analytics workspace" at "Microsoft.OperationalInsights/workspaces", "Analytics Logs Data Ingestion", 2_760_000_000 per "1 GB", 1..9_000, share 10),
        service!("Bandwidth", "Networking" / "Network Connectivity", "Public IP address" at "Microsoft.Network/publicIPAddresses", "Standard Data Transfer Out", 80_000_000 per "1 GB", 1..90_000, share 8),
        service!("Azure OpenAI Service", "AI and Machine Learning" / "Generative AI", "Azure OpenAI" at "Microsoft.CognitiveServices/accounts", "gpt input Tokens", 2_500_000 per "1K", 500..900_000, share 6),
    ],
    regions: &[
        region("westeurope", "West Europe", &["1", "2", "3"]),
        region("northeurope", "North Europe", &["1", "2"]),
        region("germanywestcentral", "Germany West Central", &["1"]),
        region("eastus2", "East US 2", &["1", "2", "3"]),
    ],
};

/// Google Cloud.
pub(crate) static GCP: Provider = Provider {
    kind: ProviderKind::Gcp,
    name: "Google Cloud",
    publisher: "Google Cloud",
    invoice_issuer: "Google Cloud EMEA Limited",
    billing_account_type: "Billing Account",
    sub_account_type: "Project",
    services: &[
        service!("Compute Engine", "Compute" / "Virtual Machines", "Instance" at "compute.googleapis.com/instances", "N2 Instance Core running", 31_611_001 per "hour", 4_000..192_000, share 28, committable),
        service!("BigQuery", "Analytics" / "Data Warehouses", "Dataset" at "bigquery.googleapis.com/datasets", "Analysis", 6_250_000_000 per "tebibyte", 1..4_000, share 16),
        service!("Cloud Storage", "Storage" / "Object Storage", "Bucket" at "storage.googleapis.com/buckets", "Standard Storage Europe Multi-region", 26_000_000 per "gibibyte month", 20..48_000, share 16),
        service!("Cloud SQL", "Databases" / "Relational Databases", "Instance" at "sqladmin.googleapis.com/instances", "PostgreSQL: Regional - vCPU", 82_600_009 per "hour", 2_000..96_000, share 10, committable),
        service!("Kubernetes Engine", "Compute" / "Containers", "Cluster" at "container.googleapis.com/clusters", "Regional Kubernetes Clusters", 100_000_000 per "hour", 1_000..24_000, share 8),
        service!("Cloud Run", "Compute" / "Serverless Compute", "Service" at "run.googleapis.com/services", "CPU Allocation Time", 24_013 per "second", 1_000..7_000_000, share 12),
        service!("Networking", "Networking" / "Network Connectivity", "Forwarding rule" at "compute.googleapis.com/forwardingRules", "Network Internet Egress", 85_000_000 per "gibibyte", 1..90_000, share 6),
        service!("Vertex AI", "AI and Machine Learning" / "Generative AI", "Endpoint" at "aiplatform.googleapis.com/endpoints", "Text Input - Predictions", 125_019 per "count", 500..9_000_000, share 4),
    ],
    regions: &[
        region("europe-west1", "Belgium", &["europe-west1-b", "europe-west1-c"]),
        region("europe-west4", "Netherlands", &["europe-west4-a"]),
        region("us-central1", "Iowa", &["us-central1-a", "us-central1-f"]),
    ],
};

/// Oracle Cloud Infrastructure.
pub(crate) static OCI: Provider = Provider {
    kind: ProviderKind::Oci,
    name: "Oracle",
    publisher: "Oracle",
    invoice_issuer: "Oracle",
    billing_account_type: "Tenancy",
    sub_account_type: "Compartment",
    services: &[
        service!("Compute", "Compute" / "Virtual Machines", "instance" at "instance", "Standard - E5 - OCPU", 30_000_000 per "OCPU Per Hour", 1_000..192_000, share 40, committable),
        service!("Block Volume", "Storage" / "Block Storage", "bootvolume" at "bootvolume", "Block Volume - Storage", 25_500_000 per "Gigabyte Storage Capacity Per Month", 50..48_000, share 25),
        service!("Autonomous Database", "Databases" / "Relational Databases", "autonomousdatabase" at "autonomousdatabase", "Transaction Processing - ECPU", 336_000_007 per "ECPU Per Hour", 2_000..48_000, share 15, committable),
        service!("Object Storage", "Storage" / "Object Storage", "bucket" at "bucket", "Standard - Storage", 25_500_000 per "Gigabyte Storage Capacity Per Month", 20..48_000, share 12),
        service!("Load Balancer", "Networking" / "Network Infrastructure", "loadbalancer" at "loadbalancer", "Base", 11_300_011 per "Load Balancer Hour", 1_000..24_000, share 8),
    ],
    regions: &[
        region("eu-frankfurt-1", "Germany Central (Frankfurt)", &["EU-FRANKFURT-1-AD-1", "EU-FRANKFURT-1-AD-2"]),
        region("us-ashburn-1", "US East (Ashburn)", &["IAD-AD-1", "IAD-AD-3"]),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_resources_are_shared_out() {
        for provider in [&AWS, &AZURE, &GCP, &OCI] {
            assert_eq!(provider.services.iter().map(|service| service.share).sum::<u64>(), 100, "{}", provider.name);
        }
    }
}
