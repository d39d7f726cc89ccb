"""Calls about people, money, workspaces and their secrets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from beaker import beaker_pb2 as pb2

from tunewright.beaker_emulator.call_group import CallGroup
from tunewright.beaker_emulator.identifiers import checked_name, new_id
from tunewright.beaker_emulator.listing import need, says
from tunewright.beaker_emulator.moments import now
from tunewright.beaker_emulator.refusals import Conflict, NotFound


class OrganizationCalls(CallGroup):
    """Who there is, and where things belong."""

    def GetUser(self, request: pb2.GetUserRequest, user: pb2.User) -> pb2.GetUserResponse:
        """Who asks, or the user that is named."""
        found = self._organization.user(request.user_id) if request.HasField("user_id") else user
        shown = pb2.User()
        shown.CopyFrom(found)
        if not request.include_user_details:
            shown.ClearField("user_details")
        return pb2.GetUserResponse(user=shown)

    def ResolveUserName(self, request: pb2.ResolveUserNameRequest, user: pb2.User) -> pb2.ResolveUserNameResponse:
        """The id of a name."""
        found = self._organization.user(request.user_name)
        if found.name != request.user_name:
            raise NotFound(f"user {request.user_name!r} not found")
        return pb2.ResolveUserNameResponse(user_id=found.id)

    def ListUsers(self, request: pb2.ListUsersRequest, user: pb2.User) -> pb2.ListUsersResponse:
        """Everybody."""
        rows, token = self._pages.of(
            request, lambda opts: self._in_organization(opts, self._organization.users.values())
        )
        return pb2.ListUsersResponse(users=rows, next_page_token=token)

    def GetOrganization(self, request: pb2.GetOrganizationRequest, user: pb2.User) -> pb2.GetOrganizationResponse:
        """The only one there is."""
        self._organization.check_organization(request.organization_id)
        return pb2.GetOrganizationResponse(organization=self._organization.message)

    def ResolveOrganizationName(
        self, request: pb2.ResolveOrganizationNameRequest, user: pb2.User
    ) -> pb2.ResolveOrganizationNameResponse:
        """The id of a name."""
        self._organization.check_organization(request.organization_name)
        return pb2.ResolveOrganizationNameResponse(organization_id=self._organization.message.id)

    def ListOrganizations(self, request: pb2.ListOrganizationsRequest, user: pb2.User) -> pb2.ListOrganizationsResponse:
        """The only one there is."""
        return pb2.ListOrganizationsResponse(organizations=[self._organization.message])

    def GetBudget(self, request: pb2.GetBudgetRequest, user: pb2.User) -> pb2.GetBudgetResponse:
        """By its id."""
        return pb2.GetBudgetResponse(budget=self._organization.budget(request.budget_id))

    def ResolveBudgetName(self, request: pb2.ResolveBudgetNameRequest, user: pb2.User) -> pb2.ResolveBudgetNameResponse:
        """The id of a name."""
        budget = self._organization.budget(f"{request.organization_name}/{request.budget_name}")
        return pb2.ResolveBudgetNameResponse(budget_id=budget.id)

    def ListBudgets(self, request: pb2.ListBudgetsRequest, user: pb2.User) -> pb2.ListBudgetsResponse:
        """All of the organization's."""
        rows, token = self._pages.of(request, lambda opts: self._in_organization(opts, self._organization.budgets))
        return pb2.ListBudgetsResponse(budgets=rows, next_page_token=token)

    def GetWorkspace(self, request: pb2.GetWorkspaceRequest, user: pb2.User) -> pb2.GetWorkspaceResponse:
        """By its id."""
        return pb2.GetWorkspaceResponse(workspace=self._store.workspaces.get(request.workspace_id))

    def ResolveWorkspaceName(
        self, request: pb2.ResolveWorkspaceNameRequest, user: pb2.User
    ) -> pb2.ResolveWorkspaceNameResponse:
        """The id of a name."""
        full_name = f"{request.owner_name}/{request.workspace_name}"
        found = need(self._store.workspaces, lambda workspace: workspace.name == full_name, f"workspace {full_name!r}")
        return pb2.ResolveWorkspaceNameResponse(workspace_id=found.id)

    def ListWorkspaces(self, request: pb2.ListWorkspacesRequest, user: pb2.User) -> pb2.ListWorkspacesResponse:
        """Those that match."""

        def matching(opts: Any) -> Iterable[pb2.Workspace]:
            for workspace in self._in_organization(opts, self._store.workspaces):
                if workspace.archived == opts.only_archived and says(workspace, opts.name_or_description_substring):
                    yield workspace

        rows, token = self._pages.of(request, matching)
        return pb2.ListWorkspacesResponse(workspaces=rows, next_page_token=token)

    def CreateWorkspace(self, request: pb2.CreateWorkspaceRequest, user: pb2.User) -> pb2.CreateWorkspaceResponse:
        """A new one, open to everybody."""
        self._organization.check_organization(request.organization_id)
        name = f"{self._organization.message.name}/{checked_name(request.name, 'a workspace')}"
        if self._store.workspaces.find(lambda workspace: workspace.name == name) is not None:
            raise Conflict(f"the name {name!r} is already in use")
        budget_id = request.default_budget_id if request.HasField("default_budget_id") else None
        workspace = pb2.Workspace(
            id=new_id(),
            name=name,
            description=request.description,
            created=now(),
            modified=now(),
            owner_org=self._organization.message,
            author_user=user,
            budget_id=None if budget_id is None else self._organization.budget(budget_id).id,
            maximum_workload_priority=pb2.JobPriority.JOB_PRIORITY_IMMEDIATE,
        )
        return pb2.CreateWorkspaceResponse(workspace=self._store.workspaces.put(workspace))

    def UpdateWorkspace(self, request: pb2.UpdateWorkspaceRequest, user: pb2.User) -> pb2.UpdateWorkspaceResponse:
        """Name, description, budget, archived, highest priority."""
        workspace = self._writable_workspace(request.workspace_id, user)
        if request.HasField("name"):
            workspace.name = f"{self._organization.message.name}/{checked_name(request.name, 'a workspace')}"
        if request.HasField("description"):
            workspace.description = request.description
        if request.HasField("archived"):
            workspace.archived = request.archived
        if request.HasField("budget_id"):
            workspace.budget_id = self._organization.budget(request.budget_id).id
        if request.HasField("maximum_workspace_priority"):
            workspace.maximum_workload_priority = request.maximum_workspace_priority
        workspace.modified.CopyFrom(now())
        return pb2.UpdateWorkspaceResponse(workspace=self._store.workspaces.put(workspace))

    def GetSecret(self, request: pb2.GetSecretRequest, user: pb2.User) -> pb2.GetSecretResponse:
        """What is told of a secret: never its value."""
        secrets = self._secrets(request.workspace_id)
        if request.secret_name not in secrets:
            raise NotFound(f"secret {request.secret_name!r} not found")
        return pb2.GetSecretResponse(secret=secrets[request.secret_name])

    def ListSecrets(self, request: pb2.ListSecretsRequest, user: pb2.User) -> pb2.ListSecretsResponse:
        """Those of a workspace."""
        rows, token = self._pages.of(request, lambda opts: self._secrets(opts.workspace_id).values())
        return pb2.ListSecretsResponse(secrets=rows, next_page_token=token)

    def _secrets(self, workspace_id: str) -> dict[str, pb2.Secret]:
        self._store.workspaces.get(workspace_id)
        found: dict[str, pb2.Secret] = {}
        for name, kept in sorted(self._store.secrets.get(workspace_id, {}).items()):
            secret = pb2.Secret(name=name, author_id=kept["author_id"])
            secret.created.FromNanoseconds(kept["created_ns"])
            secret.updated.FromNanoseconds(kept["updated_ns"])
            found[name] = secret
        return found
