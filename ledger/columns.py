"""The columns of a cost record: FOCUS 1.4 (FinOps Open Cost and Usage Specification, ratified 2026-06-04), then ours.

Money is DECIMAL(38,12), a unit price DECIMAL(38,18), a time UTC without zone and the end of a period exclusive, JSON is
text. Ours begin with `x_`; in 1.5 some of them (PrincipalId, CredentialId) are to take names of the specification.
"""

from enum import StrEnum

from core.values import value


class Kind(StrEnum):
    """What a column holds."""

    TEXT = "text"
    JSON = "json"
    TIME = "time"
    MONEY = "money"  # 12 decimals
    UNIT_PRICE = "unit_price"  # 18 decimals
    QUANTITY = "quantity"  # 12 decimals
    WHOLE = "whole"  # 64 bits


@value
class Column:
    """One column. required: never null, by the specification or, of ours, by what it is for."""

    name: str
    kind: Kind
    required: bool = False


def _columns(kind: Kind, names: str, *, required: bool = False) -> list[Column]:
    return [Column(name, kind, required) for name in names.split()]


#: In the specification's groups: mandatory, mandatory but nullable, recommended, conditional.
FOCUS_1_4 = (
    *_columns(Kind.MONEY, "BilledCost EffectiveCost ListCost ContractedCost", required=True),
    *_columns(Kind.TIME, "BillingPeriodStart BillingPeriodEnd ChargePeriodStart ChargePeriodEnd", required=True),
    *_columns(
        Kind.TEXT,
        "BillingAccountId BillingCurrency ChargeCategory InvoiceIssuerName ServiceCategory ServiceName "
        "ServiceProviderName",
        required=True,
    ),
    *_columns(Kind.TEXT, "BillingAccountName ChargeClass ChargeDescription HostProviderName PricingUnit"),
    *_columns(Kind.QUANTITY, "PricingQuantity"),
    *_columns(Kind.TEXT, "ChargeFrequency ServiceSubcategory AvailabilityZone"),
    *_columns(Kind.JSON, "AllocatedMethodDetails"),
    *_columns(
        Kind.TEXT,
        "BillingAccountType SubAccountId SubAccountName SubAccountType ConsumedUnit PricingCategory PricingCurrency "
        "SkuId SkuMeter SkuPriceId ResourceId ResourceName ResourceType RegionId RegionName InvoiceId InvoiceDetailId "
        "CommitmentDiscountCategory CommitmentDiscountId CommitmentDiscountName CommitmentDiscountStatus "
        "CommitmentDiscountType CommitmentDiscountUnit CapacityReservationId CapacityReservationStatus "
        "AllocatedMethodId AllocatedResourceId AllocatedResourceName",
    ),
    *_columns(Kind.QUANTITY, "ConsumedQuantity"),
    *_columns(Kind.UNIT_PRICE, "ListUnitPrice ContractedUnitPrice"),
    *_columns(Kind.QUANTITY, "CommitmentDiscountQuantity"),
    *_columns(Kind.UNIT_PRICE, "PricingCurrencyListUnitPrice PricingCurrencyContractedUnitPrice"),
    *_columns(Kind.MONEY, "PricingCurrencyEffectiveCost"),
    *_columns(Kind.JSON, "SkuPriceDetails Tags AllocatedTags ContractApplied CommitmentProgramEligibilityDetails"),
)

#: x_RoundingCost: what rounding the call's charge up to a nano-dollar added; on one row of the call. The sum of
#: EffectiveCost and x_RoundingCost over a call's rows is what its accounts were charged.
#: x_CostBasis: metered, estimated or invoiced. x_CostSource: provider, computed, estimated, webhook or bill.
OURS = (
    *_columns(Kind.TEXT, "x_SourceSystem x_SourceRecordId", required=True),
    *_columns(Kind.WHOLE, "x_SourceVersion", required=True),
    *_columns(Kind.TEXT, "x_CostBasis x_CostSource", required=True),
    *_columns(Kind.MONEY, "x_RoundingCost", required=True),
    *_columns(
        Kind.TEXT,
        "x_RequestId x_AttemptId x_TraceId x_AgentId x_ScopePath x_PrincipalId x_CredentialId x_ModelRequested "
        "x_ModelServed x_TokenType x_HoldId x_BudgetState x_PriceVersion x_Confidence",
    ),
    *_columns(Kind.TIME, "x_RecordedAt", required=True),
)

#: In the order of the ledger's table and of an export.
CHARGE_COLUMNS = FOCUS_1_4 + OURS
