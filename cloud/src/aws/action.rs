//! The API actions that are used, and what is particular to each.

/// One API action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    RunInstances,
    DescribeInstances,
    StartInstances,
    StopInstances,
    TerminateInstances,
    CreateVolume,
    DescribeVolumes,
    AttachVolume,
    DeleteVolume,
    GetParameter,
}

/// Actions that share one budget of calls, as they do at EC2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// Reads nothing but what is.
    Describe,
    /// RunInstances, which has the smallest budget.
    Run,
    /// Everything else that changes something.
    Mutate,
    /// SSM GetParameter.
    Parameter,
}

/// What an action is about: only if that does not exist is the failure "not found".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Nothing,
    Instance,
    Volume,
    /// AttachVolume names both.
    InstanceAndVolume,
}

impl Action {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RunInstances => "RunInstances",
            Self::DescribeInstances => "DescribeInstances",
            Self::StartInstances => "StartInstances",
            Self::StopInstances => "StopInstances",
            Self::TerminateInstances => "TerminateInstances",
            Self::CreateVolume => "CreateVolume",
            Self::DescribeVolumes => "DescribeVolumes",
            Self::AttachVolume => "AttachVolume",
            Self::DeleteVolume => "DeleteVolume",
            Self::GetParameter => "GetParameter",
        }
    }

    /// The name in IAM policies.
    pub(super) const fn permission(self) -> &'static str {
        match self {
            Self::RunInstances => "ec2:RunInstances",
            Self::DescribeInstances => "ec2:DescribeInstances",
            Self::StartInstances => "ec2:StartInstances",
            Self::StopInstances => "ec2:StopInstances",
            Self::TerminateInstances => "ec2:TerminateInstances",
            Self::CreateVolume => "ec2:CreateVolume",
            Self::DescribeVolumes => "ec2:DescribeVolumes",
            Self::AttachVolume => "ec2:AttachVolume",
            Self::DeleteVolume => "ec2:DeleteVolume",
            Self::GetParameter => "ssm:GetParameter",
        }
    }

    pub(super) const fn class(self) -> Class {
        match self {
            Self::DescribeInstances | Self::DescribeVolumes => Class::Describe,
            Self::RunInstances => Class::Run,
            Self::GetParameter => Class::Parameter,
            Self::StartInstances
            | Self::StopInstances
            | Self::TerminateInstances
            | Self::CreateVolume
            | Self::AttachVolume
            | Self::DeleteVolume => Class::Mutate,
        }
    }

    pub(super) const fn subject(self) -> Subject {
        match self {
            Self::StartInstances | Self::StopInstances | Self::TerminateInstances => {
                Subject::Instance
            }
            Self::DeleteVolume => Subject::Volume,
            Self::AttachVolume => Subject::InstanceAndVolume,
            _ => Subject::Nothing,
        }
    }
}
