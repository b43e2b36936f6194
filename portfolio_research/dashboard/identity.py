"""The viewer's identity: whoever brings the token."""

from hmac import compare_digest

from jupyter_server.auth.identity import IdentityProvider, User
from tornado.web import RequestHandler


class TokenIdentity(IdentityProvider):
    """One shared token, compared in constant time; who acknowledges says so in the request."""

    def matches(self, given: str) -> bool:
        """Whether `given` is the token."""
        return compare_digest(given.encode(), str(self.token).encode())

    async def get_user_token(self, handler: RequestHandler) -> User | None:
        """A viewer, if the request brings the token in its query or its Authorization header."""
        given = self.get_token(handler)
        return self.viewer() if given and self.matches(given) else None

    def viewer(self) -> User:
        """Whoever holds the token."""
        return User("viewer", name="viewer", display_name="viewer")
