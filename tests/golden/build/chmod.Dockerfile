FROM BASE
COPY --chmod=700 a.txt /a
COPY --chmod=0644 dir /d
